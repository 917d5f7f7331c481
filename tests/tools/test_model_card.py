"""The model card: its figures, out of files that may have been touched."""

import json

import pytest
from reported import write_evaluation, write_round

from dice.errors import BadInput
from dice.tools.curves import read_curves
from dice.tools.model_card import of_round


def test_the_card_has_a_rounds_figures(fake_run):
    """Loss and accuracy are those of the last step that was logged; without one there are dashes."""
    write_round(fake_run)
    write_evaluation(fake_run, (0.6, 0.55, 0.01, 110.0))
    card = of_round(fake_run, 1)
    assert "| 1 | 8 | 6 | 2 + 0 offline | 0 | +0.0 | 0 | 0.600 | 75% |" in card
    assert "| DPO | 0.500 | - | 100.0 characters |" in card
    assert "| round-1 | 0.600 | 55.0% ± 1.0% | 110.0 characters |" in card
    (fake_run.round_dir(1) / "curves.jsonl").unlink()
    assert "+0.0 | 0 | - | - |" in of_round(fake_run, 1)


def test_the_entries_of_the_trainers_log(tmp_path):
    steps = [{"step": 1, "loss": 0.7}, {"step": 2, "eval_loss": 0.6}]
    (tmp_path / "curves.jsonl").write_text("\n".join(map(json.dumps, steps)))
    assert read_curves(tmp_path / "curves.jsonl") == steps


@pytest.mark.parametrize(
    "line", ['"', "3", '{"loss": 1}', '{"step": 2, "rewards/accuracies": []}', "[" * 100_000, "\xff"]
)
def test_a_line_that_is_no_entry(tmp_path, line):
    (tmp_path / "curves.jsonl").write_text(f'{{"step": 1}}\n{line}\n', encoding="latin-1")
    with pytest.raises(BadInput, match="curves.jsonl:2: "):
        read_curves(tmp_path / "curves.jsonl")
