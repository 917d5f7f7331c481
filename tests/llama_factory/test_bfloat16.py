"""Training in bfloat16 on CPUs: under autocast, with weights in float32."""

import re

import pytest
import torch
from adapters import make_adapter
from trained_pairs import make_pairs, scored
from trainings import config, torchrun, weights

from dice.data import dataset_dir
from dice.launch import devices
from dice.models import trainer
from dice.run.files import read_json
from dice.run.rows import Preference, prompt_id


@pytest.mark.slow
def test_weights_stay_float32_under_autocast(random_model, tmp_path, monkeypatch):
    """In two processes; where the CPU has no instructions for it, it is only slower."""
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    asked = [[{"role": "user", "content": f"What is {n}?"}] for n in range(32)]
    pairs = [Preference(prompt_id(said), said, "It is a number.", "No.") for said in asked]
    dataset_dir.write(tmp_path / "dataset", [], pairs)
    ours = {"dataset": "mixed", "reference_logps": "table", "pack_tokens": "auto", "max_steps": 6}
    made = [
        trainer.adapt(
            config(tmp_path / "dataset", tmp_path / name, random_model, **ours, bf16=name == "half"),
            8,
            2,
            False,
        )
        for name in ("half", "single")
    ]
    assert "use_cpu" in made[0] and "use_cpu" not in made[1]
    for one in made:  # accelerate keeps to one precision in a process
        torchrun([one], 2)
    half, single, start = (
        weights(folder) for folder in (tmp_path / "half", tmp_path / "single", random_model)
    )
    moved = sum(float((single[name] - start[name]).square().sum()) for name in start) ** 0.5
    apart = sum(float((half[name] - single[name]).square().sum()) for name in start) ** 0.5
    assert all(tensor.dtype == torch.float32 for tensor in half.values())
    assert 0 < apart < 0.1 * moved
    losses = [
        read_json(tmp_path / name / "trainer_state.json")["log_history"][0]["loss"]
        for name in ("half", "single")
    ]
    assert losses == pytest.approx([0.6931, 0.6931], abs=2e-3)


@pytest.mark.slow
@pytest.mark.skipif(not devices.cpu_has_bfloat16(), reason="this CPU has no instructions for bfloat16")
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_begins_where_scoring_ended(random_model, tmp_path, kind):
    """With implicit rewards of 0, though scoring has other packs than training: both round alike."""
    data, policy = make_pairs(tmp_path), random_model
    changes = {"pack_tokens": "auto", "reference_logps": "table", "max_steps": 1, "eval_strategy": "no"}
    if kind == "lora":
        policy = make_adapter(random_model, tmp_path / "adapter", seed=3)
        changes |= {"finetuning_type": "lora", "adapter_name_or_path": policy}
    one = config(data, tmp_path / "out", random_model, **changes, bf16=True, use_cpu=True)
    scored(policy, 64, dtype="bfloat16", **trainer.precision(one)).save(tmp_path / "known.safetensors")
    said = torchrun([one | {"reference_table": str(tmp_path / "known.safetensors")}], 1)
    assert "128 of 128 are known" in said
    assert float(re.search(r"at step 0 implicit rewards are 0 within (\S+) nats", said)[1]) < 1e-5
