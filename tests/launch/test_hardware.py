"""Machines: GPUs that are found or named, and CPUs."""

import math
import os

import pytest

from dice.errors import BadInput
from dice.launch import hardware
from dice.launch.hardware import GIB, GPUS, Machine, parse_gpus, recognize, trained_flops

A100 = GPUS["A100-80G"]


@pytest.mark.parametrize(
    ("text", "count", "name"),
    [
        ("8xA100-80G", 8, "A100-80G"),
        ("8xa100-80gb", 8, "A100-80G"),
        ("H200", 1, "H200"),
        ("2 x H100", 2, "H100-80G"),
        ("1xRTX-4090", 1, "RTX-4090"),
        ("rtx-3090", 1, "RTX-3090"),
    ],
)
def test_gpus_that_are_given(text, count, name):
    assert parse_gpus(text) == Machine(GPUS[name], count, "as given")


def test_a_gpu_of_which_its_memory_is_known_alone():
    found = parse_gpus("2x24G")
    assert (found.device.memory, found.count, found.device.is_gpu) == (24 * GIB, 2, True)
    assert math.isnan(found.device.flops) and parse_gpus("16gb").device.memory == 16 * GIB
    assert parse_gpus("2x24GiB").device.name == found.device.name


def test_gpus_that_come_in_several_sizes():
    found = parse_gpus("8xA100")
    assert (found.device, found.count) == (A100, 8)
    assert str(found).endswith("80 GiB each, as given; write gpus=8xA100-40G if it is that")


@pytest.mark.parametrize(
    "text", ["rtx", "", "8", "banana", "0xH200", "-1xH200", "8x", "1.5xH200", "H200,", "0x24G"]
)
def test_gpus_that_make_no_sense(text):
    with pytest.raises(BadInput, match=r"^gpus is .*; it must be like \d+x.*; there are: A10G, .*RTX-5090$"):
        parse_gpus(text)


@pytest.mark.parametrize(
    ("product", "gib", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", 80, "A100-80G"),
        ("NVIDIA A100-PCIE-40GB", 40, "A100-40G"),
        ("NVIDIA H100 80GB HBM3", 80, "H100-80G"),
        ("NVIDIA L40S", 45, "L40S"),
        ("NVIDIA GeForce RTX 4090", 24, "RTX-4090"),
    ],
)
def test_gpus_that_are_found(product, gib, name):
    found = recognize(product, gib * GIB)
    assert (found.flops, found.memory) == (GPUS[name].flops, gib * GIB)


def test_a_gpu_that_nobody_knows_has_no_speed():
    assert math.isnan(recognize("NVIDIA Z900", 24 * GIB).flops)


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A machine with two GPUs, as far as nvidia-smi tells."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    lines = {"--list-gpus": "GPU 0: one\nGPU 1: two", "*": "NVIDIA A100-SXM4-80GB, 81920\nNVIDIA T4, 15360"}
    cases = "".join(f"{case}) printf '{text}\\n' ;;\n" for case, text in lines.items())
    program.write_text(f"#!/bin/sh\ncase $1 in\n{cases}esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DICE_DEVICE", raising=False)
    return monkeypatch


def test_the_gpus_of_this_machine(nvidia_smi):
    found = hardware.find()
    assert (found.count, found.origin, found.device.name) == (2, "found here", "NVIDIA A100-SXM4-80GB")
    assert (found.device.flops, found.device.memory) == (A100.flops, 80 * GIB)
    nvidia_smi.setenv("NPROC_PER_NODE", "1")
    assert hardware.find().count == 1
    nvidia_smi.setenv("DICE_DEVICE", "cpu")
    assert not hardware.find().device.is_gpu and hardware.find().origin == "no GPU was found"


def test_workers_on_cpus_share_them(monkeypatch):
    monkeypatch.setenv("DICE_DEVICE", "cpu")
    one = hardware.find()
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    two = hardware.find()
    for figure in ("flops", "bandwidth", "memory"):
        assert getattr(two.device, figure) == pytest.approx(getattr(one.device, figure) / 2)
    assert "GiB for each of 2 workers, no GPU was found" in str(two)


def test_what_a_trained_token_takes():
    """Six FLOPs a parameter; four where none but an adapter is trained, and six for the adapter's."""
    assert trained_flops(100, 100) == 600
    assert trained_flops(100 + 3, 3) == 4 * 100 + 6 * 3
