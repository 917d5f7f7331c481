"""How workers and engines share the GPUs of a machine."""

import os
from pathlib import Path

import pytest

from dice.errors import BadInput
from dice.launch import devices, worker
from dice.launch.worker import Worker
from dice.recipe.load import load_recipe
from dice.stages import checks


@pytest.mark.parametrize(
    ("visible", "neighbours", "rank", "expected"),
    [
        ("0,1,2,3,4,5,6,7", 8, 3, "3"),
        ("0,1,2,3,4,5,6,7", 4, 3, "6,7"),
        ("4,5,6,7", 2, 1, "6,7"),
        ("GPU-a,GPU-b", 2, 0, "GPU-a"),
        ("2,3", 1, 0, "2,3"),
    ],
)
def test_a_worker_sees_its_own_gpus(monkeypatch, visible, neighbours, rank, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(neighbours))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    worker._leave_torchrun(Worker(rank, neighbours, rank, Path("progress")))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    assert "LOCAL_WORLD_SIZE" not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ


def test_tensor_parallel_engines_share_out_the_gpus(monkeypatch):
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.delenv("DICE_DEVICE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5")
    assert [devices.engines_per_node(each) for each in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(BadInput, match="tensor_parallel is 4, which 6 GPUs .* it can be 1, 2, 3, 6, or set"):
        devices.engines_per_node(4)
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    assert devices.engines_per_node(4) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadInput, match="tensor_parallel is 2, but there is no GPU"):
        devices.engines_per_node(2)


def test_only_vllm_spreads_a_model_over_gpus(monkeypatch):
    """Also where it is `auto` that has become hf; a recipe that says hf is refused when it is read."""
    monkeypatch.delenv("DICE_DEVICE", raising=False)
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")

    def found(**options):
        return checks.check_gpus(load_recipe("llama3").sampling(**options))

    assert found(engine="hf") == "4 of 1 GPU each"
    assert found(engine="vllm", tensor_parallel=2) == "2 of 2 GPUs each"
    with pytest.raises(BadInput, match="generate.tensor_parallel is 2; only vllm does that"):
        found(engine="hf", tensor_parallel=2)
