"""Batches read in packs: log-probs, gradients and weights are those of LLaMA-Factory's own forward."""

import os
import sys
from types import SimpleNamespace

import pytest
import torch
from commands import run_script
from model_families import FAMILIES, make_family, some_fast
from padded_pairs import some_pairs, stock
from transformers import AutoModelForCausalLM

from dice.inference.forward import SharedPrompts
from dice.launch import devices, processes
from dice.models.reference_table import IGNORED
from dice.recipe.keys import ROOT

sys.path.insert(0, str(ROOT / "llama-factory" / "src"))
import packed
import packed_trainer

READABLE = [name for name, (_, _, reader) in FAMILIES.items() if reader is SharedPrompts]
CPU = torch.device("cpu")


def gradients(model, sums):
    """Of a loss that gives every row a weight of its own."""
    model.zero_grad()
    (sums * torch.linspace(-1, 1, len(sums))).sum().backward()
    return {name: weights.grad.clone() for name, weights in model.named_parameters()}


@pytest.mark.parametrize("name", some_fast(READABLE))
@pytest.mark.parametrize("checkpoints", [False, True])
def test_log_probs_and_gradients_of_packs_are_those_of_rows(name, checkpoints, tmp_path):
    """With windows, caps and scales; the logits of the packs in one chunk, in several, and in empty ones."""
    model = AutoModelForCausalLM.from_pretrained(make_family(name, tmp_path)).train()
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    batch = some_pairs([(9, 14, 1), (3, 6, 22), (20, 12, 7)])
    reader = packed.Packed(model)
    expected, means = stock(model, batch)
    expected_gradients = gradients(model, expected)
    pack = packed.pack_of(batch, reader.limit)
    assert len(pack.ids) == 9 + 13 + 0 + 3 + 5 + 21 + 20 + 11 + 6
    for chunks in (1, 4, 70):
        sums, logits, _ = model(**reader.arguments(pack, chunks, CPU))
        assert torch.allclose(sums, expected, rtol=1e-5, atol=1e-4)
        assert torch.allclose(logits, means, atol=1e-5)
        found = gradients(model, sums)
        for key, gradient in expected_gradients.items():
            limit = 1e-5 * max(1, float(gradient.abs().max()))
            assert float((found[key] - gradient).abs().max()) <= limit, key
    again, _ = stock(model, batch)  # in its own way, after packs
    assert torch.equal(again, expected)


def test_what_is_no_pack():
    batch = some_pairs([(9, 14, 1), (3, 6, 22)])
    assert packed.pack_of(batch, 25) and not packed.pack_of(batch, 24)  # the longest row has 3 + 22 tokens
    assert not packed.pack_of({**batch, "pixel_values": torch.zeros(1)}, 512)
    for row, at, label in (
        (0, 12, IGNORED),
        (1, slice(None), IGNORED),
        (2, 9, 1),
        (3, 0, batch["input_ids"][3, 0]),
    ):
        labels = batch["labels"].clone()
        labels[row, at] = label
        assert not packed.pack_of({**batch, "labels": labels}, 512), row


@pytest.mark.slow
@pytest.mark.parametrize("version", ["1", "2"])
def test_packs_under_fsdp(version, tmp_path):
    """Of two processes, each with half of the weights: they train as one that has them all."""
    support = ROOT / "tests" / "support"
    path = os.pathsep.join(map(str, (ROOT, ROOT / "llama-factory" / "src", support)))
    command = processes.torchrun(
        [str(support / "fsdp_packed.py"), make_family("llama", tmp_path), version], devices.workers_per_node()
    )
    command[3] = "--nproc_per_node=2"
    result = run_script(*command, PYTHONPATH=path, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr[-3000:]
    assert float(result.stdout) < 2e-4  # of sums of some hundred nats


@pytest.mark.parametrize(
    ("gpu", "share"),
    [("NVIDIA A100-SXM4-80GB", {"share_of_matrix_rate": 0.25}), ("NVIDIA Z9", {}), (None, {})],
)
def test_the_speed_of_a_training(monkeypatch, gpu, share):
    """1,200 tokens in 2 seconds on 2 GPUs, 260 GFLOPs a token: a quarter of twice 312 TFLOP/s."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    here = SimpleNamespace(name=gpu, total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: here)
    both = SimpleNamespace(device=CPU, num_processes=2, reduce=lambda tokens, _: 2 * tokens)
    training = SimpleNamespace(accelerator=both, tokens=600, seconds=2.0, token_flops=260e9)
    assert packed_trainer.PackedTrainer._speed(training) == {"tokens_per_second": 600.0, **share}
