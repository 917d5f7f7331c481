"""Checkpoints that a trainer split over its processes, as one plain model."""

import pickle
import shutil

import pytest
from bomb import Bomb
from commands import run_dice
from trainings import DEEPSPEED, config, torchrun, weights

from dice.recipe.keys import ROOT
from dice.tools import export_model

pytestmark = pytest.mark.slow


def test_a_relative_output_is_where_one_stands(random_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_model.export_checkpoint(str(random_model), "out", None)
    assert (tmp_path / "out" / "model.safetensors").is_file() and not (ROOT / "out").exists()


def test_a_checkpoint_that_deepspeed_split_is_gathered(data_dir, random_model, tmp_path):
    """From two processes' parts, after the whole weights beside them are gone."""
    short = {"max_steps": 2, "save_steps": 2, "save_strategy": "steps", "reference_logps": "table"}
    short |= {"deepspeed": str(DEEPSPEED / "zero3.json"), "eval_strategy": "no"}
    short |= {"dataset": "some_pairs", "val_size": 0}
    torchrun(config(data_dir, tmp_path / "out", random_model, **short), 2, DS_ACCELERATOR="cpu")
    checkpoint = tmp_path / "out" / "checkpoint-2"
    (checkpoint / "model.safetensors").unlink()
    result = run_dice("export", str(checkpoint), f"--output={tmp_path}/model")
    assert result.returncode == 0, result.stderr
    expected, found = weights(tmp_path / "out"), weights(tmp_path / "model")
    assert expected.keys() == found.keys()
    assert all(bool((expected[name] == found[name]).all()) for name in expected)


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
    result = run_dice("export", str(tmp_path), f"--output={tmp_path}/other")
    assert result.returncode == 2 and "no model here" in result.stderr and not (tmp_path / "other").exists()
