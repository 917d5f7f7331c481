"""The pairs of a run as a data set of the Hub, beside the model that was trained on them."""

import json

import pytest
import yaml
from reported import write_round

from dice.errors import BadInput
from dice.run.run import Run
from dice.tools import export_model, export_pairs


def test_the_pairs_of_the_rounds_are_pushed_beside_the_model(fake_run, tmp_path, monkeypatch):
    """As a data set with a subset for each round, which `dataset_info.json` can name."""
    write_round(fake_run)
    (fake_run.round_dir(1) / "model").mkdir()
    (fake_run.round_dir(1) / "model" / "model.safetensors").write_bytes(b"")
    sent = {}

    class Hub:
        def create_repo(self, name, **options):
            assert options == {"repo_type": sent_as[name], "exist_ok": True, "private": True}

        def upload_folder(self, repo_id, repo_type, folder_path):
            sent[repo_id] = {path.name: path.read_text() for path in folder_path.iterdir()}

    sent_as = {"me/model": "model", "me/model-pairs": "dataset"}
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_token")
    export_model.export_round(fake_run, 1, str(tmp_path / "out"), "me/model", pairs=True)
    assert sent.keys() == sent_as.keys()
    assert "- me/model-pairs\n" in sent["me/model"]["README.md"]
    pairs = sent["me/model-pairs"]
    assert pairs["round-1.json"] == (fake_run.round_dir(1) / "dataset" / "dataset.json").read_text()
    _, header, text = pairs["README.md"].split("---\n", 2)
    assert yaml.safe_load(header)["configs"] == [{"config_name": "round-1", "data_files": "round-1.json"}]
    entry = json.loads(text.partition("```json\n")[2].partition("```")[0])["round_1"]
    assert (entry["hf_hub_url"], entry["subset"], entry["ranking"]) == ("me/model-pairs", "round-1", True)
    with pytest.raises(BadInput, match="--pairs goes with --push=OWNER/NAME"):
        export_model.export_round(fake_run, 1, None, None, pairs=True)
    with pytest.raises(BadInput, match="is a checkpoint, which has no pairs"):
        export_model.export_checkpoint("somewhere", None, "me/model", pairs=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "every prompt of `some_prompts`"),
        ({"prompts_per_round": 4}, "other prompts of `some_prompts`"),
        ({"prompts": ["a", "b"]}, "other prompts of `a, b`"),
    ],
)
def test_the_card_says_which_prompts_were_answered(fake_run, tmp_path, changes, told):
    write_round(fake_run)
    export_pairs.write(
        Run(fake_run.path, fake_run.recipe.model_copy(update=changes)), 1, "me/model", tmp_path
    )
    assert (
        f"the model of the round before answered {told} several times."
        in (tmp_path / "README.md").read_text()
    )
