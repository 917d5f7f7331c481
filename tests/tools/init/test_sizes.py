"""Lengths and ways of training that `init` chooses."""

from dataclasses import replace

import numpy as np
import pytest

from dice.errors import BadInput
from dice.launch.hardware import parse_gpus
from dice.run.rows import Message, Preference, Prompt
from dice.tools.init import sizes
from dice.tools.init.data import Data
from dice.tools.init.sizes import Models, fit, lengths_of


def data_of(rows):
    pairs = [Preference(f"{n}", [Message(role="user", content="Hi")], "a", "b") for n in range(len(rows))]
    return Data(pairs, None, np.array(rows), "")


def test_prompts_of_one_s_own_have_room():
    """Prompts of 300 tokens and answers of 64: 364, in steps of 128; one of 500 has no room on a CPU."""
    prompts = [Prompt(f"{n}", [Message(role="user", content="Hi")]) for n in range(3)]
    data = replace(data_of([[20, 10]]), prompts=prompts, own=np.array([300, 500, 20]))
    kept, lengths = lengths_of(data, None, on_gpu=False)
    assert [prompt.prompt_id for prompt in kept.prompts] == ["0", "2"] and lengths.row == 384
    assert "1 prompts with over 448 tokens left out" in kept.told
    with pytest.raises(BadInput, match="--prompts: all of them have over 50 tokens"):
        lengths_of(replace(data, own=np.array([99, 99, 99])), 100, on_gpu=False)


def test_lengths_by_hand():
    """Rows of 30 and 600 tokens: a CPU leaves the long one out; 64 tokens an answer are its least."""
    data = data_of([[20, 10], [400, 200]])
    kept, lengths = lengths_of(data, None, on_gpu=False)
    assert (len(kept.pairs), lengths) == (1, sizes.Lengths(row=128, answer=64))
    kept, lengths = lengths_of(data, None, on_gpu=True)  # 99% of 10 and 200 is 198.1; 256 are a GPU's least
    assert (len(kept.pairs), lengths) == (2, sizes.Lengths(row=768, answer=256))
    with pytest.raises(BadInput, match="all of them have over 25 tokens"):
        lengths_of(data, 25, on_gpu=True)


@pytest.mark.parametrize(
    ("model", "gpus", "way"),
    [
        ("some/model-0.5b", "1x24G", "full"),
        ("some/model-3b", "8xA100-40G", "full, shared out by ZeRO-3"),
        ("some/model-3b", "1xRTX-4090", "LoRA"),
        ("some/model-8b", "1xA100-80G", "LoRA"),
        ("some/model-14b", "1xRTX-4090", "LoRA on weights in 4 bits"),
    ],
)
def test_ways_of_training(model, gpus, way, tmp_path):
    """The first that fits; 16 bytes a parameter for full training, 2 for LoRA, half a byte in 4 bits."""
    data = data_of([[20, 10]] * 20)
    data.write(tmp_path)
    models = Models("start", model, "llama3", "", False, False)
    found = fit(models, data, sizes.Lengths(1024, 512), parse_gpus(gpus), tmp_path)
    assert found.way == way
    assert found.planned.cost("train").fits(found.planned.machine.device)
    assert found.args["learning_rate"] == (5e-6 if "LoRA" in way or "0.5b" in model else 5e-7)
