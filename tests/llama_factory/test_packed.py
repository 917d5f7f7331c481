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


def trainer_of(policy, reference, monkeypatch):
    """A trainer of these two models, as far as it is needed to get losses of batches."""
    monkeypatch.setattr(packed_trainer, "gather_object", lambda found: found)
    trainer = packed_trainer.PackedTrainer.__new__(packed_trainer.PackedTrainer)
    accelerator = SimpleNamespace(device=CPU, gather=lambda counts: counts, unwrap_model=lambda model: model)
    vars(trainer).update(
        accelerator=accelerator, model=policy, ref_model=reference, pack_tokens="auto", selects_logits=True,
        policy_packed=packed.Packed(policy), reference_packed=packed.Packed(reference), tokens=0,
        finetuning_args=SimpleNamespace(use_ref_model=True), args=SimpleNamespace(bf16=False, fp16=False),
        ld_alpha=None, loss_type="sigmoid", beta=0.1, label_smoothing=0, f_divergence_type="reverse_kl",
        reference_free=False, bco_gemma=0, ftx_gamma=0, is_world_process_zero=lambda: True,
        model_accepts_loss_kwargs=False, compute_loss_func=None,
    )  # fmt: skip
    return trainer


def loaded(name, folder):
    return AutoModelForCausalLM.from_pretrained(make_family(name, folder)).train()


@pytest.mark.slow
def test_a_reference_of_another_family_is_asked_by_itself(tmp_path, monkeypatch, capsys):
    policy, reference = loaded("llama", tmp_path / "policy"), loaded("bloom", tmp_path / "reference")
    trainer, batch = trainer_of(policy, reference, monkeypatch), some_pairs([(9, 14, 1), (3, 6, 22)])
    expected, _ = stock(reference, batch)
    trainer.concatenated_forward(policy, batch)
    found = torch.cat(trainer.compute_reference_log_probs(policy, batch))
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert (trainer.policy_packed.agrees, trainer.reference_packed.agrees) == (True, False)
    assert capsys.readouterr().out.endswith(
        "the policy reads pairs in packs: log-probs agree\n"
        "the reference reads pairs by LLaMA-Factory's forward: the attention of BloomForCausalLM can't be "
        "replaced\n"
    )


@pytest.mark.slow
def test_all_pairs_of_a_step_count_the_same(tmp_path, monkeypatch):
    """Batches of four pairs and of one have the loss, figures and the gradient of one batch of five."""
    policy, reference = loaded("llama", tmp_path / "policy"), loaded("qwen3", tmp_path / "reference")
    trainer = trainer_of(policy, reference, monkeypatch)
    whole = some_pairs([(9, 14, 1), (3, 6, 22), (20, 12, 7), (5, 5, 9), (8, 30, 30)])

    def step(*batches):
        batches, _ = trainer.get_batch_samples(iter(batches), len(batches), CPU)
        losses, told = zip(*(trainer.get_batch_loss_metrics(policy, batch) for batch in batches), strict=True)
        loss, figures = sum(losses) / len(batches), {}
        for key in told[0]:
            figures[key] = sum(each[key] for each in told) / len(batches)
        return loss, figures, gradients(policy, loss[None].expand(2) * torch.tensor([0.0, 1.0]))

    parts = [{name: rows.view(2, 5, -1)[:, part].flatten(0, 1) for name, rows in whole.items()}
             for part in (slice(4), slice(4, 5))]  # fmt: skip
    expected, expected_figures, expected_gradients = step(whole)
    found, figures, found_gradients = step(*parts)
    assert figures == pytest.approx(expected_figures, rel=1e-4)
    assert torch.allclose(found, expected, atol=1e-6)
    for key, gradient in expected_gradients.items():
        assert torch.allclose(found_gradients[key], gradient, atol=1e-6), key


@pytest.mark.slow
@pytest.mark.parametrize("checkpoints", [False, True])
@pytest.mark.parametrize("name", ["phi3-long", "llama-dynamic"])
def test_a_long_row_leaves_the_positions_of_others_alone(name, checkpoints, tmp_path, monkeypatch):
    """Batches with rows beyond 40 tokens beside short ones, and short ones afterwards: as row by row."""
    policy = loaded(name, tmp_path / "policy")
    if checkpoints:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
    trainer = trainer_of(policy, loaded(name, tmp_path / "reference"), monkeypatch)
    for lengths in ([(9, 14, 1)], [(3, 6, 60), (20, 12, 7), (9, 45, 32)], [(9, 14, 1), (3, 6, 22)]):
        batch = some_pairs(lengths)
        found = trainer.concatenated_forward(policy, batch)
        sums = torch.cat([found["chosen_logps"], found["rejected_logps"]])
        found_gradients = gradients(policy, sums)
        parts = []
        for row, length in enumerate(batch["attention_mask"].sum(1)):
            fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
            (part,), _ = stock(fresh, {key: rows[row : row + 1, :length] for key, rows in batch.items()})
            (part * torch.linspace(-1, 1, len(sums))[row]).backward()
            parts.append((part.detach(), fresh))
        assert torch.allclose(sums, torch.stack([part for part, _ in parts]), rtol=1e-5, atol=1e-4)
        for key, gradient in found_gradients.items():
            expected = sum(fresh.get_parameter(key).grad for _, fresh in parts)
            assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-4), key
