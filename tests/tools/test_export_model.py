"""Adapters, and checkpoints that a trainer split over its processes, as one plain model."""

import json
import pickle
import shutil

import pytest
from adapters import make_adapter
from bomb import Bomb
from commands import run_dice
from trainings import DEEPSPEED, config, torchrun, weights

from dice.recipe.paths import ROOT
from dice.tools.export_model import export_checkpoint


@pytest.mark.parametrize("has_file", [True, False])
def test_an_adapter_is_merged_with_its_bases_generation_config(random_model, tmp_path, has_file):
    """As Vicuna's has it: transformers reads a temperature without do_sample, and refuses to write it."""
    base = shutil.copytree(random_model, tmp_path / "base")
    file = base / "generation_config.json"
    sampling = {"do_sample": False, "temperature": 0.9, "top_p": 0.6}
    file.write_text(json.dumps({**json.loads(file.read_text()), **sampling}))
    if not has_file:
        file.unlink()
    export_checkpoint(make_adapter(base, tmp_path / "adapter", 1), str(tmp_path / "merged"), None)
    found = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    if has_file:
        assert found == json.loads(file.read_text())
    else:  # it is what transformers makes of config.json
        assert found["eos_token_id"] == json.loads((base / "config.json").read_text())["eos_token_id"]
    assert weights(tmp_path / "merged").keys() == weights(base).keys()


def test_an_export_can_be_read_by_whom_its_folder_can(random_model, tmp_path):
    """safetensors leaves its files to their owner alone."""
    export_checkpoint(make_adapter(random_model, tmp_path / "adapter", 1), str(tmp_path / "merged"), None)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "merged").iterdir()}
    assert set(modes.values()) == {(tmp_path / "merged").stat().st_mode & 0o666}
    assert "model.safetensors" in modes


@pytest.mark.slow
def test_a_relative_output_is_where_one_stands(random_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_checkpoint(str(random_model), "out", None)
    assert (tmp_path / "out" / "model.safetensors").is_file() and not (ROOT / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_that_deepspeed_split_is_gathered(data_dir, random_model, tmp_path):
    """From two processes' parts, after the whole weights beside them are gone."""
    short = {"max_steps": 2, "save_steps": 2, "save_strategy": "steps", "reference_logps": "table"}
    short |= {"deepspeed": str(DEEPSPEED / "zero3.json"), "eval_strategy": "no"}
    short |= {"dataset": "some_pairs", "val_size": 0}
    torchrun([config(data_dir, tmp_path / "out", random_model, **short)], 2, DS_ACCELERATOR="cpu")
    checkpoint = tmp_path / "out" / "checkpoint-2"
    (checkpoint / "model.safetensors").unlink()
    result = run_dice("export", str(checkpoint), f"--output={tmp_path}/model")
    assert result.returncode == 0, result.stderr
    expected, found = weights(tmp_path / "out"), weights(tmp_path / "model")
    assert expected.keys() == found.keys()
    assert all(bool((expected[name] == found[name]).all()) for name in expected)


@pytest.mark.slow
def test_a_checkpoint_that_fsdp_split_is_gathered(random_model, tmp_path):
    import torch.distributed.checkpoint as dcp

    shutil.copytree(random_model, tmp_path / "checkpoint")
    expected = weights(tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "model.safetensors").unlink()
    dcp.save({"model": expected}, checkpoint_id=tmp_path / "checkpoint" / "pytorch_model_fsdp_0")
    result = run_dice("export", str(tmp_path / "checkpoint"), f"--output={tmp_path}/model")
    assert result.returncode == 0, result.stderr
    found = weights(tmp_path / "model")
    assert all(bool((expected[name] == found[name]).all()) for name in expected)
    metadata = tmp_path / "checkpoint" / "pytorch_model_fsdp_0" / ".metadata"
    metadata.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    result = run_dice("export", str(tmp_path / "checkpoint"), f"--output={tmp_path}/other")
    assert result.returncode == 2 and "io.open, which does not belong there" in result.stderr
    assert not (tmp_path / "boom").exists()
    (tmp_path / "broken" / "global_step5").mkdir(parents=True)
    result = run_dice("export", str(tmp_path / "broken"), f"--output={tmp_path}/other")
    assert result.returncode == 2 and "broken: its parts can't be put together" in result.stderr
    result = run_dice("export", str(tmp_path), f"--output={tmp_path}/new/other")
    assert result.returncode == 2 and "no model here" in result.stderr and not (tmp_path / "new").exists()
