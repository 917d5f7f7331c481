"""Attention within a pack: a token sees its prompt and its own response up to itself, nothing else.

For a query q and a key k of the same pack, in the words of `dice.inference.packing`:

    q sees k  where  k is in q's prompt or in q's own segment,
              and    0 <= position(q) - position(k) < window     (without a window: 0 <= ...)

transformers lets a model's attention be replaced by a function, and `attend` is that function. It works
for every model whose attention goes through transformers' interface, with grouped queries, sliding
windows and soft-capped scores. It gets B = 1 sequence of T tokens: queries are (1, heads, T, head size),
keys and values (1, key heads, T, head size) in, (1, key heads, carried + T, head size) once those of a
carried prompt are put before them.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_flash_attention_utils import _flash_attention_forward

from dice.inference.packing import Pack, Segment, blocks

NAME = "dice_shared_prompt"
# Layers that are computed again in a backward pass have the attention of their forward pass by this name.
KEYWORD = "dice_attention"
# Queries per block. Few skip most of what is masked anyway; on a GPU starting a kernel costs more.
QUERIES_ON_CPU, QUERIES = 128, 1024

HARMLESS = ("position_ids", "cache_position")  # tensors that attention functions get and don't need

KeysValues = dict[torch.nn.Module, tuple[Tensor, Tensor]]  # by the attention module that they belong to


@dataclass
class Attention:
    """The attention of one forward pass over a pack, in all layers.

    `kernel` is what transformers calls attn_implementation. `carried` holds the keys and values of the
    carried prompt; `carry` collects those that the next pack needs. `windows` is every sliding window
    that a layer asked for, in tokens. `joins`: short responses share a block, which is quicker; else the
    rounding of a response's attention does not depend on what stands beside it.
    """

    pack: Pack
    kernel: str
    device: torch.device
    carried: KeysValues
    joins: bool = True
    carry: KeysValues = field(default_factory=dict)
    windows: set[int | None] = field(default_factory=set)
    _masks: dict[tuple[Segment, int | None], Tensor] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> list[Segment]:
        size = QUERIES_ON_CPU if self.device.type == "cpu" else QUERIES
        return list(blocks(self.pack, size, self.joins))

    def keys_values(self, module: torch.nn.Module, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """A layer's keys and values, the carried ones first; keeps what the next pack needs."""
        if self.pack.carried:
            before = self.carried[module]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        if self.pack.carry:
            kept = slice(*self.pack.carry)
            self.carry[module] = (key[:, :, kept].clone(), value[:, :, kept].clone())
        return key, value

    def split(self, keys: Tensor) -> dict[int, Tensor]:
        """The keys (or values) by where the ranges of the blocks' keys begin.

        A block takes its keys out of these parts: the backward pass of a slice fills a tensor as long as what
        it was cut from.
        """
        starts = sorted({start for block in self.blocks for start, _ in block.keys})
        ends = [*starts[1:], keys.shape[2]]
        sizes = [end - start for start, end in zip(starts, ends, strict=True)]
        return dict(zip(starts, keys.split(sizes, 2), strict=True))

    def mask(self, block: Segment, window: int | None) -> Tensor:
        """Which of a block's keys each of its queries sees, boolean (queries, keys)."""
        if (block, window) not in self._masks:
            positions, owners = self._positions_and_owners
            keys = torch.cat([torch.arange(*part) for part in block.keys])
            queries = torch.arange(*block.queries) + self.pack.carried
            distance = positions[queries, None] - positions[None, keys]
            seen = (owners[None, keys] < 0) | (owners[None, keys] == owners[queries, None])
            seen &= distance >= 0
            if window:
                seen &= distance < window
            self._masks[block, window] = seen.to(self.device)
        return self._masks[block, window]

    @cached_property
    def _positions_and_owners(self) -> tuple[Tensor, Tensor]:
        """The position of every key, and the response that it belongs to, -1 for prompts."""
        owners = torch.full((self.pack.carried + len(self.pack.ids),), -1)
        for number, segment in enumerate(self.pack.segments):
            if len(segment.keys) == 2:
                owners[slice(*segment.keys[1])] = number
        return torch.tensor([*range(self.pack.carried), *self.pack.positions]), owners

    @cached_property
    def sequences(self) -> tuple[Tensor, dict[str, Any]]:
        """The pack as flash attention takes it, a sequence per segment.

        These are the index of every sequence's keys, one sequence after the other, and transformers' bounds
        of the sequences. Causal attention is then the mask of a segment: its queries are its last keys.
        """
        index, queries, keys = [], [0], [0]
        for segment in self.pack.segments:
            index += [torch.arange(*part) for part in segment.keys]
            queries.append(segment.queries[1])
            keys.append(keys[-1] + sum(end - start for start, end in segment.keys))
        bounds: dict[str, Any] = {}
        for name, ends in {"q": queries, "k": keys}.items():
            cumulative = torch.tensor(ends, dtype=torch.int32)
            bounds[f"max_length_{name}"] = int(cumulative.diff().max())
            bounds[f"cu_seq_lens_{name}"] = cumulative.to(self.device)
        return torch.cat(index).to(self.device), bounds


_current: ContextVar[Attention] = ContextVar("attention")


@contextlib.contextmanager
def using(attention: Attention) -> Iterator[None]:
    """Within this context `attend` computes the attention of that pack."""
    token = _current.set(attention)
    try:
        yield
    finally:
        _current.reset(token)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling * q k^T, masked as above) v, as (1, T, heads, head size).

    With a `softcap` c the scores s are c * tanh(s / c). Raises TypeError for what it knows nothing of:
    attention sinks, position biases.
    """
    if unknown := [name for name, value in others.items() if torch.is_tensor(value) and name not in HARMLESS]:
        raise TypeError(f"attention with {', '.join(unknown)}")
    attention = others.get(KEYWORD) or _current.get()
    attention.windows.add(sliding_window)
    key, value = attention.keys_values(module, key.to(value.dtype), value)
    query = query.to(value.dtype)  # under autocast, positions are encoded in float32
    if attention.kernel.startswith("flash"):
        index, bounds = attention.sequences
        query, key, value = (part.transpose(1, 2) for part in (query, key[:, :, index], value[:, :, index]))
        return _flash_attention_forward(
            query, key, value, None, query_length=query.shape[1], is_causal=True, softmax_scale=scaling,
            sliding_window=sliding_window, softcap=softcap, attn_implementation=attention.kernel, **bounds,
        ), None  # fmt: skip
    # SDPA can't cap scores, and transformers' own use of it silently doesn't.
    plain = attention.kernel == "eager" or softcap is not None
    repeats = query.shape[1] // key.shape[1]
    queries_by_block = query.split([end - start for start, end in (b.queries for b in attention.blocks)], 2)
    key_parts, value_parts = attention.split(key), attention.split(value)
    parts = []
    for block, queries in zip(attention.blocks, queries_by_block, strict=True):
        keys, values = (_of_block(part, block, repeats) for part in (key_parts, value_parts))
        mask = attention.mask(block, sliding_window)
        if plain:
            found = _attend_plainly(queries, keys, values, mask, scaling, softcap)
        else:
            found = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
        parts.append(found.transpose(1, 2))
    return torch.cat(parts, 1), None


def _of_block(keys: dict[int, Tensor], block: Segment, repeats: int) -> Tensor:
    """The keys (or values) of a block, those of grouped queries repeated for each of their heads."""
    parts = [keys[start][:, :, : end - start] for start, end in block.keys]
    taken = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return taken if repeats == 1 else taken.repeat_interleave(repeats, 1)


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None, softcap: float | None
) -> Tensor:
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    precise = torch.promote_types(scores.dtype, torch.float32)
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=precise)
    return weights.to(value.dtype) @ value


AttentionInterface.register(NAME, attend)
