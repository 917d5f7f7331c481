"""Log-probs against one row at a time in float64, for every family that models come in."""

import numpy as np
import pytest
import torch
import transformers
from float64 import one_by_one

from dice.errors import BadInput
from dice.inference import forward
from dice.inference.forward import Budget, SeparateRows, SharedPrompts, token_logps
from dice.inference.scorer import Options, Scorer

VOCABULARY = 300
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 40,
}
# name -> model class, what its configuration has beyond SHAPE, how it is expected to be read. Windows
# are shorter than the rows, caps and scales far from neutral.
FAMILIES = {
    "llama": ("LlamaForCausalLM", {}, SharedPrompts),
    "mistral": ("MistralForCausalLM", {"sliding_window": 11}, SharedPrompts),
    "qwen2": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
        SharedPrompts,
    ),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 16}, SharedPrompts),
    "gemma2": (
        "Gemma2ForCausalLM",
        {"head_dim": 8, "sliding_window": 8, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0},
        SharedPrompts,
    ),
    "phi3": ("Phi3ForCausalLM", {}, SharedPrompts),
    "phi3-long": (
        "Phi3ForCausalLM",
        {"original_max_position_embeddings": 40, "rope_parameters": LONGROPE},
        SharedPrompts,
    ),
    "llama-dynamic": (
        "LlamaForCausalLM",
        {
            "max_position_embeddings": 40,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        },
        SharedPrompts,
    ),
    "cohere": ("CohereForCausalLM", {"logit_scale": 0.3}, SharedPrompts),
    "granite": (
        "GraniteForCausalLM",
        {"logits_scaling": 4.0, "attention_multiplier": 0.2, "embedding_multiplier": 3.0},
        SharedPrompts,
    ),
    # Families without transformers' attention interface, or with more to their attention.
    "gpt-oss": (
        "GptOssForCausalLM",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
        SeparateRows,
    ),
    "bloom": ("BloomForCausalLM", {"n_layer": 2, "n_head": 4}, SeparateRows),
    "mamba": ("MambaForCausalLM", {}, SeparateRows),
}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Makes the random model of a family, once; returns its folder."""
    made = {}

    def make(name):
        if name not in made:
            kind, options, _ = FAMILIES[name]
            model_class = getattr(transformers, kind)
            torch.manual_seed(0)
            model = model_class(model_class.config_class(**{**SHAPE, **options}))
            for weights in model.parameters():
                if weights.ndim > 1:  # large enough for attention to matter
                    torch.nn.init.normal_(weights, std=0.15)
            made[name] = str(tmp_path_factory.mktemp(name))
            model.save_pretrained(made[name])
        return made[name]

    return make


def some_rows(prompts=3, responses=5):
    """Rows of a few prompts, lengths from one token to 70 in all."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(prompts):
        prompt = rng.integers(3, VOCABULARY, rng.integers(1, 25)).tolist()
        for length in rng.choice([1, 2, 6, 25, 45], responses):
            rows.append((prompt, rng.integers(3, VOCABULARY, length).tolist()))
    return rows


def scorer_of(folder, **options):
    scorer = Scorer(Options(dtype="float32", **options))
    scorer.use(folder)
    return scorer


def sums(scorer, rows):
    return np.array([logps.sum(dtype=float) for logps in scorer.token_logps(rows)])


def some_fast(names):
    """The first families of each kind in the fast tests, all in the others."""
    fast = ("llama", "mistral")
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]


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
@pytest.mark.parametrize("name", some_fast(["llama", "mistral", "phi3-long", "llama-dynamic", "bloom"]))
@pytest.mark.parametrize("budget", [1, 30, 100_000])
def test_the_budget_the_chunk_and_the_order_do_not_matter(families, monkeypatch, name, budget):
    rows = some_rows()
    expected = sums(scorer_of(families(name), batch_tokens=200), rows)
    monkeypatch.setattr(forward, "LOGITS_ON_CPU", 7 * VOCABULARY)
    monkeypatch.setattr(forward, "LEAST_TOKENS", 1)
    scorer = scorer_of(families(name), batch_tokens=budget)
    order = np.random.default_rng(1).permutation(len(rows))
    found = sums(scorer, [rows[index] for index in order])
    np.testing.assert_allclose(found, expected[order], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_attention_gives_the_same(families, attention):
    found = sums(scorer_of(families("mistral"), attn_implementation=attention), some_rows())
    expected = [sum(tokens) for tokens in one_by_one(families("mistral"), some_rows())]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_flash_attention_gets_every_prompt_and_response_as_a_sequence(families, monkeypatch):
    """With its kernel replaced by one that follows its documented contract, one sequence at a time."""
    import dice.inference.packed_attention

    calls = []

    def varlen(query, key, value, mask, query_length, is_causal, softmax_scale, sliding_window, softcap,
               attn_implementation, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k):  # fmt: skip
        calls.append(attn_implementation)
        assert (mask, is_causal, query.shape[0]) == (None, True, 1)
        parts = []
        for q0, q1, k0, k1 in zip(
            cu_seq_lens_q[:-1], cu_seq_lens_q[1:], cu_seq_lens_k[:-1], cu_seq_lens_k[1:], strict=True
        ):
            assert q1 - q0 <= max_length_q
            assert k1 - k0 <= max_length_k
            q, k, v = query[0, q0:q1], key[0, k0:k1], value[0, k0:k1]
            k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
            distance = (k1 - q1 + q0) - k0 + torch.arange(q1 - q0)[:, None] - torch.arange(k1 - k0)
            seen = (distance >= 0) & (distance < sliding_window)
            scores = torch.einsum("qhd,khd->hqk", q, k) * softmax_scale
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            parts.append(torch.einsum("hqk,khd->qhd", weights, v))
        return torch.cat(parts)[None]

    rows = some_rows()
    scorer = scorer_of(families("mistral"), batch_tokens=40)
    expected = sums(scorer, rows)
    monkeypatch.setattr(dice.inference.packed_attention, "_flash_attention_forward", varlen)
    scorer._reader.attention = "flash_attention_2"
    np.testing.assert_allclose(sums(scorer, rows), expected, rtol=1e-5)
    assert set(calls) == {"flash_attention_2"}


def test_a_prompt_is_computed_once(families):
    """Tokens fed: the prompt's once, of every response all but the last; in packs of the budget."""
    scorer = scorer_of(families("llama"), batch_tokens=20)
    fed = []
    body = scorer._reader.head.body
    body.register_forward_pre_hook(lambda module, args, kwargs: fed.append(kwargs), with_kwargs=True)
    rows = [(list(range(3, 33)), [5] * length) for length in (4, 9, 12, 1)]
    scorer.token_logps(rows)
    counted = [kwargs["input_ids"].numel() for kwargs in fed if kwargs.get("position_ids") is not None]
    assert sum(counted) == 30 + 3 + 8 + 11 + 0
    assert counted == [30, 11, 11]


def test_logits_exist_for_a_chunk_at_a_time(families, monkeypatch):
    monkeypatch.setattr(forward, "LOGITS_ON_CPU", 10 * VOCABULARY)
    monkeypatch.setattr(forward, "LEAST_TOKENS", 1)
    sizes = []
    plain = forward.token_logps
    monkeypatch.setattr(
        forward, "token_logps", lambda logits, ids: sizes.append(len(logits)) or plain(logits, ids)
    )
    rows = some_rows()
    scorer = scorer_of(families("llama"))
    sizes.clear()
    scorer.token_logps(rows)
    assert sum(sizes) == sum(len(response) for _, response in rows)
    assert max(sizes) == 10


@pytest.mark.slow
def test_what_does_not_fit_is_halved_for_good(families, capsys):
    scorer = scorer_of(families("llama"), batch_tokens=4000)
    expected = sums(scorer, some_rows())
    reader, plain = scorer._reader, scorer._reader._forward
    tried = []

    def limited(pack, carried):
        tried.append(len(pack.ids))
        if len(pack.ids) > 60:
            raise torch.OutOfMemoryError("no")
        return plain(pack, carried)

    reader._forward = limited
    counted = []
    found = np.array([logps.sum() for logps in scorer.token_logps(some_rows(), counted.append)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert sum(counted) == len(expected)
    assert scorer.budget.tokens <= 60
    assert "out of memory with" in capsys.readouterr().out
    assert sum(count > 60 for count in tried) < 8  # it learns


@pytest.mark.slow
def test_memory_too_small_for_one_response_is_said(families):
    scorer = scorer_of(families("llama"), batch_tokens=2)

    def never(pack, carried):
        raise torch.OutOfMemoryError("no")

    scorer._reader._forward = never
    with pytest.raises(BadInput, match=r"does not suffice for .* tokens.*lower score.cutoff_len"):
        scorer.token_logps(some_rows())


def test_budget_passes_on_what_works():
    assert Budget(5).attempt(lambda: "done", 3) == "done"


def test_token_logps_by_hand():
    """Logits log 1, log 3 over two tokens are probabilities 1/4 and 3/4."""
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    found = token_logps(logits, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([np.log(0.25), np.log(0.75)], abs=1e-6)


def test_token_logps_of_bfloat16_are_computed_in_float32():
    logits = torch.tensor([[5.0, 5.0, 5.0]], dtype=torch.bfloat16)
    found = token_logps(logits, torch.tensor([2]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-np.log(3), abs=1e-6)


def test_a_token_without_embedding_is_named(families):
    scorer = scorer_of(families("llama"))
    with pytest.raises(BadInput, match=r"below 300; the tokenizer gave id 300"):
        scorer.token_logps([([5, 6], [7, 300])])
    with pytest.raises(BadInput, match="a prompt without tokens"):
        scorer.token_logps([([], [7])])


@pytest.mark.parametrize("name", some_fast(FAMILIES))
def test_bfloat16_is_read_the_same_way(families, name):
    """The probe must not take rounding for a difference: it would refuse good models on GPUs."""
    scorer = Scorer(Options(dtype="bfloat16"))
    scorer.use(families(name))
    assert type(scorer._reader) is FAMILIES[name][2]


def test_a_row_beyond_a_table_of_positions_is_named(tmp_path):
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=80)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    scorer = scorer_of(str(tmp_path))
    scorer.token_logps([([5] * 60, [6] * 21)])
    with pytest.raises(BadInput, match="has positions for 80 tokens, a row has 82; lower score.cutoff_len"):
        scorer.token_logps([([5] * 60, [6] * 22)])


def test_a_model_that_no_reader_can_read_is_refused(families, monkeypatch):
    """Whatever reads otherwise than the model itself is not used."""
    monkeypatch.setattr(forward.Head, "_logits", lambda self, output, states: torch.zeros(len(states), 300))
    with pytest.raises(BadInput, match=r"LlamaForCausalLM \(llama\) is no model that can be scored"):
        scorer_of(families("llama"))
