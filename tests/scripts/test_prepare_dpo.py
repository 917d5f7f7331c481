"""A DPO start of one's own, as the qwen recipe makes it, with a small model."""

import sys

import pytest
import yaml
from commands import run_script
from trainings import config

from dice.recipe.paths import ROOT

SCRIPT = str(ROOT / "scripts" / "data" / "prepare_dpo.py")


def prepare(*arguments):
    return run_script(sys.executable, SCRIPT, *arguments, PYTHONPATH=str(ROOT))


@pytest.mark.slow
def test_a_start_is_made_once(data_dir, random_model, tmp_path):
    settings = config(data_dir, "unused", random_model, dataset="some_pairs", max_steps=2, val_size=0)
    settings |= {"finetuning_type": "lora", "reference_logps": "table", "eval_strategy": "no"}
    del settings["output_dir"]
    (tmp_path / "start.yaml").write_text(yaml.safe_dump(settings))
    result = prepare(str(tmp_path / "start.yaml"), str(tmp_path / "dpo"), "learning_rate=1e-3")
    assert result.returncode == 0, result.stderr
    assert "trained on 20 pairs" in result.stdout
    assert (tmp_path / "dpo" / "adapter_model.safetensors").is_file()
    assert (tmp_path / "dpo" / "tokenizer.json").is_file() and not (tmp_path / "dpo.partial").exists()
    again = prepare(str(tmp_path / "start.yaml"), str(tmp_path / "dpo"))
    assert (again.returncode, again.stdout) == (0, "")


def test_a_file_that_is_no_training_file(tmp_path):
    result = prepare(str(tmp_path / "nowhere.yaml"), str(tmp_path / "dpo"))
    assert result.returncode == 2 and "nowhere.yaml: no training file" in result.stderr
    (tmp_path / "half.yaml").write_text("stage: dpo")
    result = prepare(str(tmp_path / "half.yaml"), str(tmp_path / "dpo"))
    assert result.returncode == 2 and "half.yaml: model_name_or_path is missing" in result.stderr
