"""Tokens in, tokens out: what was sampled is what is scored and trained on."""

import json
from collections import Counter

import fake_world
import pytest
from small_tokenizers import prefix_space
from token_trail import Trail, row_of

from dice.data.prompts_and_preferences import read_preferences
from dice.recipe.load import load_recipe
from dice.run.run import create_run
from dice.stages import pair

pytestmark = pytest.mark.slow
HISTORY = [["Hi there", "Hello! More."], ["Be kind", "</s> I am"]]


@pytest.fixture
def data(tmp_path):
    """Prompts of several turns, some with a system prompt."""
    folder = fake_world.make_data(tmp_path / "data")
    prompts = [
        {
            "instruction": f"Tell me about {topic}.",
            "system": "Be kind." if number % 2 else "",
            "history": HISTORY[: number % 3],
        }
        for number, topic in enumerate(fake_world.TOPICS)
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    registry = json.loads((folder / "dataset_info.json").read_text())
    registry["some_prompts"]["columns"] |= {"system": "system", "history": "history"}
    (folder / "dataset_info.json").write_text(json.dumps(registry))
    return folder


def sentencepiece_model(folder, seed):
    """A random model with a space before every text, as Mistral and Zephyr have."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    prefix_space(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=400, bos_token_id=1, eos_token_id=2, pad_token_id=0, **shape)
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("make_model", "template"),
    [(fake_world.make_random_model, "llama3-custom"), (sentencepiece_model, "zephyr-custom")],
)
def test_what_was_sampled_is_scored_and_trained_on(make_model, template, data, tmp_path, monkeypatch):
    """Row by row, although most texts of a random model give back other ids."""
    models = [
        f"{role}={make_model(tmp_path / role, seed)}" for seed, role in enumerate(("policy", "reference"))
    ]
    own = [
        f"template={template}", "generate.engine=hf", "generate.samples=16", "generate.max_new_tokens=128",
        "generate.temperature=1.3", "pair.min_samples=2", "pair.per_prompt=2", "train.global_batch_size=2",
    ]  # fmt: skip
    settings = [*fake_world.make_settings(data, tmp_path / "results"), *models, *own]
    run = create_run(load_recipe("tiny", settings))
    trail = Trail(run, monkeypatch)
    scores, exact = trail.scored()
    assert exact == scores > 20
    assert sum(row.chosen_ids is not None for row in trail.pairs) > len(trail.pairs) / 2 > 2

    offline, _ = read_preferences(str(data), "some_pairs")
    texts = [(row.messages, text) for row in offline for text in (row.chosen, row.rejected)]
    of_texts = {row_of(*trail.chat.encode(*asked)) for asked in texts}
    mixed, trained_on = pair.STAGE.manifest(run, 1).figures, trail.trained_on()
    generated = Counter({row: count for row, count in trained_on.items() if row not in of_texts})
    assert generated <= trail.paired()
    assert generated.total() == 2 * mixed["generated"] > 0
    assert trained_on.total() == 2 * (mixed["generated"] + mixed["offline"])
