"""Training in bfloat16 on CPUs: under autocast, with weights in float32."""

import pytest
import torch
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
