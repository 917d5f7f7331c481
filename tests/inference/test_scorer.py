"""Log-probs against one row at a time in float64, for every family that models come in."""

import numpy as np
import pytest
import torch
import transformers
from float64 import one_by_one
from model_families import FAMILIES, scorer_of, some_fast, some_rows, sums

from dice.errors import BadInput
from dice.inference import forward
from dice.inference.scorer import Scorer
from dice.launch import devices
from dice.models.loading import Options


@pytest.mark.parametrize("name", some_fast(FAMILIES))
def test_log_probs_equal_float64_one_row_at_a_time(families, name):
    rows = some_rows()
    expected = one_by_one(families(name), rows)
    scorer = scorer_of(families(name))
    assert type(scorer._reader) is FAMILIES[name][2]
    found = scorer.token_logps(rows)
    np.testing.assert_allclose([f.sum() for f in found], [sum(e) for e in expected], rtol=1e-5)
    for tokens, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(tokens, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_attention_gives_the_same(families, attention):
    found = sums(scorer_of(families("mistral"), attn_implementation=attention), some_rows())
    expected = [sum(tokens) for tokens in one_by_one(families("mistral"), some_rows())]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", some_fast(FAMILIES))
def test_bfloat16_is_read_the_same_way(families, name):
    """The probe must not take rounding for a difference: it would refuse good models on GPUs."""
    scorer = Scorer(Options(dtype="bfloat16"))
    scorer.use(families(name))
    assert type(scorer._reader) is FAMILIES[name][2]


@pytest.mark.skipif(not devices.cpu_has_bfloat16(), reason="this CPU has no instructions for bfloat16")
@pytest.mark.parametrize(
    "name", some_fast(["llama", "mistral", "qwen3", "gemma2", "cohere", "granite", "gpt2"])
)
def test_packs_of_any_size_round_alike(families, name):
    """To the last bit, also as LLaMA-Factory trains: a response's rewards depend on no other response."""
    for how in ({}, {"autocast": True}, {"autocast": True, "float32_weights": True}):
        found = []
        for tokens in (20, 70, 400):
            scorer = Scorer(Options("bfloat16", batch_tokens=tokens, **how))
            scorer.use(families(name))
            found.append(np.concatenate(scorer.token_logps(some_rows())))
        assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_as_a_model_is_trained_rewards_are_less_rough(families):
    """Products in bfloat16 alone, all sums in float32: of a checkpoint the matrices alone are rounded."""
    expected = np.concatenate(one_by_one(families("qwen3"), some_rows()))
    errors = []
    for how in ({}, {"autocast": True, "float32_weights": True}):
        scorer = Scorer(Options("bfloat16", **how))
        scorer.use(families("qwen3"))
        errors.append(np.concatenate(scorer.token_logps(some_rows())) - expected)
    model = scorer.models.use(families("qwen3"))
    kinds = {name.split(".")[-2]: weights.dtype for name, weights in model.named_parameters()}
    assert (kinds["embed_tokens"], kinds["norm"], kinds["q_proj"]) == (*[torch.float32] * 2, torch.bfloat16)
    assert 0 < np.std(errors[1]) < 0.9 * np.std(errors[0])


def test_a_model_that_no_reader_can_read_is_refused(families, monkeypatch):
    """Whatever reads otherwise than the model itself is not used."""
    monkeypatch.setattr(forward.Head, "_logits", lambda self, output, states: torch.zeros(len(states), 300))
    with pytest.raises(BadInput, match=r"LlamaForCausalLM \(llama\) is no model that can be scored"):
        scorer_of(families("llama"))


def test_a_token_without_embedding_is_named(families):
    scorer = scorer_of(families("llama"))
    with pytest.raises(BadInput, match=r"below 300; the tokenizer gave id 300"):
        scorer.token_logps([([5, 6], [7, 300])])
    with pytest.raises(BadInput, match="a prompt without tokens"):
        scorer.token_logps([([], [7])])


def test_a_row_beyond_a_table_of_positions_is_named(tmp_path):
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=80)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    scorer = scorer_of(str(tmp_path))
    scorer.token_logps([([5] * 60, [6] * 21)])
    with pytest.raises(BadInput, match="has positions for 80 tokens, a row has 82; lower score.cutoff_len"):
        scorer.token_logps([([5] * 60, [6] * 22)])
