"""Attention within a pack: its mask, and the sequences that flash attention gets."""

import numpy as np
import torch
from model_families import scorer_of, some_rows, sums

from dice.inference import packed_attention
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


def test_flash_attention_gets_every_prompt_and_response_as_a_sequence(families, monkeypatch):
    """With its kernel replaced by one that follows its documented contract, one sequence at a time."""
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
    monkeypatch.setattr(packed_attention, "_flash_attention_forward", varlen)
    scorer._reader.attention = "flash_attention_2"
    np.testing.assert_allclose(sums(scorer, rows), expected, rtol=1e-5)
    assert set(calls) == {"flash_attention_2"}
