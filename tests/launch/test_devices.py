"""How workers and engines share the GPUs of a machine."""

import itertools
import os
from pathlib import Path

import pytest
import torch

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


LISTED = """GPU 0: NVIDIA GeForce RTX 3060 Laptop GPU (UUID: GPU-11aa)
GPU 1: NVIDIA H200 (UUID: GPU-12bb)
GPU 2: NVIDIA A100 (UUID: GPU-22cc)
  MIG 1g.5gb      Device  0: (UUID: MIG-31)
  MIG 1g.5gb      Device  1: (UUID: MIG-32)
"""


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("NoDevFiles", []),  # what SLURM sets for a job without GPUs
        ("none", []),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),  # what follows a name that is no GPU's is not read
        ("1,7,0", ["1"]),
        ("1,x,0", ["1"]),
        ("1,,0", ["1"]),
        (" 1 , +0 ", ["1", "+0"]),
        ("1gpu,0x", ["1gpu", "0x"]),  # CUDA reads the digits
        ("0,1,0", []),  # twice the same: CUDA takes none
        ("GPU-12bb,GPU-11aa", ["GPU-12bb", "GPU-11aa"]),
        ("GPU-12,GPU-11", ["GPU-12", "GPU-11"]),  # the beginning is enough
        ("GPU-1,GPU-12bb", []),  # ... where it is one GPU's
        ("GPU-12bb,GPU-99", ["GPU-12bb"]),
        ("GPU-12bb,0", ["GPU-12bb"]),  # the first name says of which kind all are
        ("GPU-12bb,GPU-12", []),
        ("0,GPU-12bb", ["0"]),
        ("MIG-31,MIG-32", ["MIG-31"]),  # a process gets one part, however many it may use
        ("MIG-99", []),
        ("2", ["2"]),
        ("2,1", ["2"]),
        (None, ["2"]),  # of three GPUs one is parted: CUDA shows a single device
    ],
)
def test_gpus_are_counted_as_cuda_counts(monkeypatch, tmp_path, visible, expected):
    monkeypatch.delenv("DICE_DEVICE", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{LISTED}END\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpus() == expected and devices.gpu_count() == len(expected)


@pytest.mark.slow
def test_names_of_gpus_are_read_as_torch_reads_them(monkeypatch):
    """torch counts without CUDA, too; where nvidia-smi is absent both believe what is well formed."""
    from torch.cuda import _parse_visible_devices

    monkeypatch.delenv("DICE_DEVICE", raising=False)
    monkeypatch.setattr(devices, "_gpus_here", lambda program: None)
    words = ["0", "1", "2", "-1", "+3", "", " 4 ", "5x", "x", "NoDevFiles", "GPU-a", "GPU-b", "0.5", "1 2"]
    for visible in map(",".join, itertools.product(words, repeat=3)):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert len(devices.gpus()) == len(_parse_visible_devices()), visible


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


@pytest.mark.parametrize(
    ("visible", "instructions", "expected"),
    [
        ("", [], "float32"),
        ("", ["amx_bf16"], "bfloat16"),
        ("", ["avx512_bf16"], "bfloat16"),
        ("", ["amx_tile", "avx512_f"], "float32"),
        ("0", [], "bfloat16"),
    ],
)
def test_auto_is_the_precision_that_is_fast(monkeypatch, visible, instructions, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(
        torch.cpu, "get_capabilities", lambda: {"sse": True, **dict.fromkeys(instructions, True)}
    )
    assert devices.dtype_name("auto") == expected
    assert [devices.dtype_name(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
