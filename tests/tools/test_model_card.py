"""The model card: its figures, out of files that may have been touched."""

import json

import pytest
import yaml
from reported import write_evaluation, write_round

from dice.errors import BadInput
from dice.recipe.paths import ROOT
from dice.run.run import Run
from dice.tools import card_header
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


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, r"some\_prompts"),
        ({"prompts_per_round": 4}, r"some\_prompts, 4 in each round"),
        ({"prompts": ["a", "b"]}, "a, b, one set for each round"),
    ],
)
def test_the_card_says_which_prompts_rounds_had(fake_run, changes, told):
    write_round(fake_run)
    run = Run(fake_run.path, fake_run.recipe.model_copy(update=changes))
    assert f"| prompts | {told} |\n" in of_round(run, 1)


def header(run, t=1, pairs=None):
    return yaml.safe_load(of_round(run, t, pairs).split("---")[1])


def test_the_header_says_what_the_hub_files_it_by(fake_run, data_dir, monkeypatch):
    """The base's own card tells the license; sets that only this machine has are left out."""
    cards = {"some/dpo": {"license": "other", "license_name": "llama3", "tags": ["x"]}}
    monkeypatch.setattr(card_header, "_card", lambda name: cards.get(name, {}))
    registry = data_dir / "dataset_info.json"
    known = json.loads(registry.read_text()) | {"hub_prompts": {"hf_hub_url": "some/prompts"}}
    registry.write_text(json.dumps(known))
    write_round(fake_run)
    run = Run(
        fake_run.path, fake_run.recipe.model_copy(update={"policy": "some/dpo", "prompts": "hub_prompts"})
    )
    found = header(run, pairs="me/model-pairs")
    assert found == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "some/dpo",
        "license": "other",
        "license_name": "llama3",
        "datasets": ["some/prompts", "me/model-pairs"],
        "tags": ["dice", "dpo", "preference-optimization", "llama-factory"],
    }


def test_a_policy_of_this_machine_has_a_base_all_the_same(fake_run, tmp_path, monkeypatch):
    """What its own card says, else the model that it was trained from."""
    monkeypatch.setattr(card_header.hub, "settle", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write_round(fake_run)
    (tmp_path / "dpo").mkdir()
    run = Run(
        fake_run.path,
        fake_run.recipe.model_copy(update={"policy": str(tmp_path / "dpo"), "reference": "a/sft"}),
    )
    assert header(run)["base_model"] == "a/sft" and "license" not in header(run)
    (tmp_path / "dpo" / "README.md").write_text("---\nlicense: mit\nbase_model: some/base\n---\n")
    assert (header(run)["base_model"], header(run)["license"]) == ("some/base", "mit")


def test_no_path_of_this_machine_is_in_a_card(fake_run, tmp_path):
    write_round(fake_run)
    write_evaluation(fake_run, (0.6, 0.55, 0.01, 110.0))
    run = Run(fake_run.path, fake_run.recipe.model_copy(update={"policy": str(tmp_path / "my-dpo")}))
    card = of_round(run, 1)
    assert "policy: my-dpo\n" in card and "| starting point | my-dpo |" in card and "judge.py:quality" in card
    for folder in (str(tmp_path), str(ROOT)):
        assert folder not in card


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
