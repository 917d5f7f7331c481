"""Attention within a pack: its mask, and the sequences that flash attention gets."""

import flash_stand_in
import numpy as np
import pytest
import torch
from float64 import one_by_one
from model_families import scorer_of, some_fast, some_rows, sums

from dice.inference import packed_attention
from dice.inference.forward import SeparateRows, SharedPrompts
from dice.inference.packing import Pack


def test_a_response_sees_its_prompt_and_itself():
    pack = Pack(carried=2)
    pack.add_response(0, [7, 7, 7])
    pack.add_response(1, [8, 8])
    attention = packed_attention.Attention(pack, "sdpa", torch.device("cpu"), {})
    (block,) = attention.blocks
    # Keys: two of the carried prompt, two of the first response, one of the second.
    assert attention.mask(block, None).int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 0, 0, 1]]
    # Positions 2, 3 and 2: within a window of 2 tokens, the prompt's first token is out of sight.
    assert attention.mask(block, 2).int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


@pytest.mark.parametrize("name", some_fast(["llama", "mistral", "qwen2", "gemma2"]))
def test_flash_attention_gives_the_same(families, monkeypatch, name):
    """The whole of transformers' way to flash attention, its kernel replaced: plain, padded and packed.

    transformers 5.6.0 breaks here, and so on GPUs in every model without attention sinks.
    """
    calls = flash_stand_in.install(monkeypatch)
    expected = [sum(tokens) for tokens in one_by_one(families(name), some_rows())]
    scorer = scorer_of(families(name), attn_implementation="flash_attention_2", batch_tokens=40)
    assert set(calls) == {"flash_attn_func", "flash_attn_varlen_func"}
    reader = scorer._reader
    assert (type(reader), reader.attention) == (SharedPrompts, "flash_attention_2")
    np.testing.assert_allclose(sums(scorer, some_rows()), expected, rtol=1e-5)
    scorer._reader = SeparateRows(reader.head.model, reader.head.body, reader.attention)
    np.testing.assert_allclose(sums(scorer, some_rows()), expected, rtol=1e-5)
