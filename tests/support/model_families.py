"""Tiny random models of the families that models come in, and how they are expected to be read."""

import numpy as np
import pytest
import torch
import transformers

from dice.inference.forward import SeparateRows, SharedPrompts
from dice.inference.scorer import Scorer
from dice.models.loading import Options

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
    # The heads of these look for more than states in what their bodies return.
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}, SharedPrompts),
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_positions": 512, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
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


def make_family(name, folder, head="ForCausalLM", **changes):
    """Save the random model of a family; returns its folder."""
    kind, options, _ = FAMILIES[name]
    model_class = getattr(transformers, kind.replace("ForCausalLM", head))
    torch.manual_seed(0)
    model = model_class(model_class.config_class(**{**SHAPE, **options, **changes}))
    for weights in model.parameters():
        if weights.ndim > 1:  # large enough for attention to matter
            torch.nn.init.normal_(weights, std=0.15)
    model.save_pretrained(folder)
    return str(folder)


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
    """The first family in the fast tests, all in the others."""
    fast = ("llama",)
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in names]
