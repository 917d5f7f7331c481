"""Win rates by hand, and judges that can't be used."""

import math

import numpy as np
import pytest

from dice.errors import BadInput
from dice.recipe.paths import ROOT
from dice.stages.evaluate import load_judge, win_rate


def test_win_rate_by_hand():
    """Two prompts, two answers each side.

    First: 1 and 0 against 0 and 0: wins 2 of 4 pairs, ties 2: 3/4. Second: loses all four: 0.
    Mean 3/8; standard deviation of (3/4, 0) is 0.75 / sqrt 2, over sqrt 2 that is 3/8.
    """
    ours, theirs = np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [1.0, 1.0]])
    rate, error = win_rate(ours, theirs)
    assert rate == pytest.approx(3 / 8) and error == pytest.approx(3 / 8)
    assert win_rate(theirs, ours)[0] == pytest.approx(5 / 8)
    assert win_rate(ours, ours)[0] == pytest.approx(0.5)


def test_one_prompt_has_no_standard_error():
    rate, error = win_rate(np.array([[1.0]]), np.array([[0.0]]))
    assert rate == 1.0 and math.isnan(error)


def test_a_judge_is_a_function_in_a_file():
    judge = load_judge("scripts/tiny/world.py:quality")
    assert judge("Name two birds.", "owl and crow.") == 1.0
    with pytest.raises(BadInput, match=r"gone.py does not exist; give path/to/file.py:function"):
        load_judge("scripts/gone.py:quality")
    with pytest.raises(BadInput, match="has no function 'verdict'"):
        load_judge(f"{ROOT}/scripts/tiny/world.py:verdict")
