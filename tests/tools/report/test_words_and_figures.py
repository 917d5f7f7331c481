"""What a report says, piece by piece: the verdict, words made harmless, and what its figures are drawn of."""

import math

import numpy as np
import pytest
from reported import write_round

from dice.stages.evaluate import Result
from dice.tools.report import figures
from dice.tools.report.collect import Collected, collect
from dice.tools.report.text import clipped, duration, embedded, minus, visible
from dice.tools.report.verdict import verdict


@pytest.fixture
def run(fake_run):
    """Round 1 finished, round 2 not begun, nothing judged."""
    write_round(fake_run)
    return fake_run


@pytest.mark.parametrize(
    ("rounds", "mood", "says"),
    [
        ([(0.6, 0.55, 0.02, 100.0)], "good", "It worked so far"),
        ([(0.6, 0.53, 0.02, 100.0)], "open", "No clear difference"),  # 50% is within two standard errors
        ([(0.4, 0.45, 0.02, 100.0)], "bad", "It got worse so far"),
        ([(0.6, 0.9, math.nan, 100.0)], "open", "on too few prompts"),
        ([(0.6, 0.6, 0.02, 130.0)], "good", "(+30%): part of the win may be length"),
        ([(0.6, 0.6, 0.02, 70.0)], "good", "(-30%): much shorter than before"),
        ([(0.6, 0.6, 0.02, 100.0), (0.6, 0.57, 0.02, 100.0)], "good", "best one: round 1 wins 60.0%"),
        ([], "open", "no round's model has been judged"),
    ],
)
def test_the_verdict(run, rounds, mood, says):
    start = [Result("SFT", 0.4, 0.3, 0.01, 90.0), Result("DPO", 0.5, None, None, 100.0)]
    results = start + [Result(f"round-{t}", *row) for t, row in enumerate(rounds, 1)]
    found = verdict(Collected(run, collect(run).rounds, collect(run).evaluation, results, []))
    assert found.mood == mood
    assert says in " ".join([found.headline, *found.details])


def test_an_earlier_round_that_is_as_good_is_not_called_better(run):
    results = [Result("DPO", 0.5, None, None, 100.0)]
    results += [Result("round-1", 0.6, 0.61, 0.02, 100.0), Result("round-2", 0.6, 0.6, 0.02, 100.0)]
    found = verdict(Collected(run, collect(run).rounds, collect(run).evaluation, results, []))
    assert "best one" not in " ".join(found.details)


def test_a_recipe_without_a_judge_is_told_apart(run):
    run.recipe.evaluate.judge = run.recipe.evaluate.prompts = None
    assert "this recipe has no judge" in verdict(collect(run)).headline
    assert collect(run).missing() == ["not begun: round 2"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand é 漢 😀", "two\nlines\tand é 漢 😀"),
        ("\x1b[31m\r\x07\x7f\x9b", "␛[31m␍␇␡[U+009B]"),
        ("a\u202eb\u2028c\u200bd\ufeff", "a[U+202E]b[U+2028]c[U+200B]d[U+FEFF]"),
        ("half \ud83d", "half \ufffd"),
    ],
)
def test_control_characters_are_shown_as_signs(text, shown):
    assert visible(text) == shown


def test_small_words():
    assert clipped("abcdef", 4) == "abcd … [2 more characters]" and clipped("abcd", 4) == "abcd"
    assert embedded(["</script>", "é"]) == '["\\u003c/script>","é"]'
    assert [duration(s) for s in (0.14, 59.6, 61, 7500)] == ["0.1 s", "1 min 0 s", "1 min 1 s", "2 h 5 min"]
    assert minus("-0.3 -> +1, a-1, 2024-11-02") == "−0.3 -> +1, a-1, 2024-11-02"


def test_rewards_relative_to_their_prompt_and_their_trend():
    values, prompts = np.array([1.0, 3.0, 10.0, 20.0]), np.array([0, 0, 2, 2])
    assert figures._relative(values, prompts).tolist() == [-1, 1, -5, 5]
    x, y = figures._trend(np.array([0.0, 1, 2, 3]), np.array([0.0, 2, 4, 8]), parts=2)
    assert (x.tolist(), y.tolist()) == ([0.5, 2.5], [1, 6])


def test_bins_suit_the_number_of_values():
    numbers = np.arange(1, 2001)
    edges = figures._edges(numbers, 2000, whole=True)  # all but one at either end
    assert set(np.diff(edges)) == {42.0} and edges[0] == 1.5  # 1,997 / 48, rounded up
    assert len(figures._edges(numbers, 100, whole=False)) == 21  # 2 x the root of 100 bins
    assert figures._edges(np.arange(10), 10, whole=False)[[0, -1]].tolist() == [0, 9]  # of few, all
    assert figures._edges(np.full(5, 2.0), 5, whole=False)[[0, -1]].tolist() == [1.5, 2.5]
