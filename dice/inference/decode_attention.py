"""Attention of one new token a row over the row's cache, for sampling on CPUs.

SDPA has no kernel for one query on CPUs: it repeats the keys and values of grouped queries for each of their
heads, and takes about seven times as long as the two matrix products that attention is. A prompt has many
queries, so for prompts SDPA is used as it is.
"""

from typing import Any

from torch import Tensor, float32, inf
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "dice_decode"


def attend(
    module: object, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """softmax(scaling * q k^T, masked) v, as (B, Q, heads, head size).

    Queries are (B, heads, Q, head size), keys and values (B, key heads, L, head size). The mask is boolean,
    (B, 1, Q, L), True where a query sees a key; None is causal.
    """
    if query.shape[2] != 1:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scaling = options.get("scaling") or query.shape[3] ** -0.5
    grouped = query.view(
        query.shape[0], key.shape[1], -1, query.shape[3]
    )  # (B, key heads, their queries, size)
    scores = (grouped @ key.transpose(2, 3)).to(float32) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill_(~attention_mask, -inf)
    return (scores.softmax(-1).to(value.dtype) @ value).flatten(1, 2)[:, None], None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
