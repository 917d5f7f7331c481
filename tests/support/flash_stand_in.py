"""A stand-in for the package flash-attn, so that a CPU goes through transformers' flash attention."""

from functools import wraps

import torch
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as flash


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                           softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                           deterministic=False):  # fmt: skip
    """The kernel's documented contract, one sequence at a time: (tokens, heads, head size) in and out."""
    assert causal and dropout_p == 0
    ends = zip(cu_seqlens_q[:-1], cu_seqlens_q[1:], cu_seqlens_k[:-1], cu_seqlens_k[1:], strict=True)
    parts = []
    for q0, q1, k0, k1 in ends:
        assert q1 - q0 <= max_seqlen_q and k1 - k0 <= max_seqlen_k
        keys, values = (part[k0:k1].repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
        scores = torch.einsum("qhd,khd->hqk", q[q0:q1], keys) * scale
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        # The last query stands at the last key, and a window holds itself and window_size[0] keys before.
        distance = (k1 - k0 - q1 + q0) + torch.arange(q1 - q0)[:, None] - torch.arange(k1 - k0)
        seen = distance >= 0
        if window_size[0] >= 0:
            seen &= distance <= window_size[0]
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        parts.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(parts)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
                    softcap=0.0, deterministic=False):  # fmt: skip
    """The same for B sequences of equal length: (B, T, heads, head size) in and out."""
    ends = [torch.arange(len(part) + 1) * part.shape[1] for part in (q, k)]
    flat = [part.flatten(0, 1) for part in (q, k, v)]
    found = flash_attn_varlen_func(
        *flat, *ends, q.shape[1], k.shape[1], dropout_p, softmax_scale, causal, window_size, softcap
    )
    return found.view(q.shape)


def install(monkeypatch):
    """Make transformers take these functions for flash attention 2. Returns a list: a name per call."""
    calls = []

    def counted(kernel):
        @wraps(kernel)  # transformers reads its parameters
        def call(*args, **options):
            calls.append(kernel.__name__)
            return kernel(*args, **options)

        return call

    functions = (
        counted(flash_attn_func), counted(flash_attn_varlen_func), None, flash._pad_input, flash._unpad_input,
    )  # fmt: skip
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda *_, **__: True)
    monkeypatch.setattr(flash, "_lazy_imports", lambda *_, **__: functions)
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    return calls
