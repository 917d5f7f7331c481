"""The model card: its figures, out of files that may have been touched."""

import json

import pytest

from dice.errors import BadInput
from dice.tools.model_card import _last_step


def test_the_last_step_that_was_logged(tmp_path):
    assert _last_step(tmp_path / "none.jsonl") == {}
    steps = [{"loss": 0.7, "rewards/accuracies": 0.5}, {"loss": 0.6, "rewards/accuracies": 0.9}, {"x": 1}]
    (tmp_path / "curves.jsonl").write_text("\n".join(map(json.dumps, steps)))
    assert _last_step(tmp_path / "curves.jsonl") == {"loss": 0.6, "rewards/accuracies": 0.9}


@pytest.mark.parametrize(
    "line", ['"', "3", '{"loss": 1}', '{"loss": [], "rewards/accuracies": 1}', "[" * 5000]
)
def test_a_line_that_is_no_step(tmp_path, line):
    (tmp_path / "curves.jsonl").write_text(f"{{}}\n{line}\n")
    with pytest.raises(BadInput, match="curves.jsonl:2: not a step of a training"):
        _last_step(tmp_path / "curves.jsonl")
