"""Attention within a pack: every response sees its prompt and itself, nothing else.

transformers lets a model's attention be replaced by a function; `attend` is that function. It works
for any model whose attention goes through transformers' interface, with grouped queries, sliding
windows and soft-capped scores.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.modeling_flash_attention_utils import _flash_attention_forward

from dice.inference.packing import Block, Pack, blocks

NAME = "dice_shared_prompt"
# Queries per block. Few skip most of what is masked anyway; on a GPU starting a kernel costs more.
QUERIES_ON_CPU, QUERIES = 128, 1024

HARMLESS = ("position_ids", "cache_position")  # tensors that attention functions get and don't need

KeysValues = tuple[torch.Tensor, torch.Tensor]  # each (1, heads, tokens, head size)


@dataclass
class Attention:
    """The attention of one forward pass over a pack.

    `kernel` is what transformers calls attn_implementation. `carried` holds the carried prompt's
    keys and values by attention module, `carry` collects those that the next pack needs. `windows`
    is every sliding window that was asked for.
    """

    pack: Pack
    kernel: str
    device: torch.device
    carried: dict[torch.nn.Module, KeysValues]
    carry: dict[torch.nn.Module, KeysValues] = field(default_factory=dict)
    windows: set[int | None] = field(default_factory=set)
    _masks: dict[tuple[Block, int | None], torch.Tensor] = field(default_factory=dict)

    @cached_property
    def blocks(self) -> list[Block]:
        return list(blocks(self.pack, QUERIES_ON_CPU if self.device.type == "cpu" else QUERIES))

    def keys_values(self, module: torch.nn.Module, key: torch.Tensor, value: torch.Tensor) -> KeysValues:
        """All keys and values that the pack may see; what the next pack needs is put aside."""
        if self.pack.carried:
            before = self.carried[module]
            key, value = torch.cat([before[0], key], 2), torch.cat([before[1], value], 2)
        if self.pack.carry:
            start, end = self.pack.carry
            self.carry[module] = (key[:, :, start:end].clone(), value[:, :, start:end].clone())
        return key, value

    def mask(self, block: Block, window: int | None) -> torch.Tensor:
        """Which keys each query sees, boolean (queries, keys)."""
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
    def _positions_and_owners(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Position of every key, and the span it belongs to, -1 for prompts."""
        owners = torch.full((self.pack.carried + len(self.pack.ids),), -1)
        for number, span in enumerate(self.pack.spans):
            if span.prompt:
                owners[self.pack.carried + span.tokens[0] : self.pack.carried + span.tokens[1]] = number
        return torch.tensor([*range(self.pack.carried), *self.pack.positions]), owners

    @cached_property
    def sequences(self) -> tuple[torch.Tensor, dict[str, Any]]:
        """For kernels that take sequences of many lengths: which key goes where, and their bounds."""
        parts, queries, keys = [], [0], [0]
        for span in self.pack.spans:
            own = (self.pack.carried + span.tokens[0], self.pack.carried + span.tokens[1])
            parts += [torch.arange(*part) for part in (span.prompt, own) if part]
            queries.append(span.tokens[1])
            keys.append(keys[-1] + own[1] - own[0] + (span.prompt[1] - span.prompt[0] if span.prompt else 0))
        bounds = {}
        for name, ends in {"q": queries, "k": keys}.items():
            cumulative = torch.tensor(ends, dtype=torch.int32)
            bounds[f"max_length_{name}"] = int(cumulative.diff().max())
            bounds[f"cu_seq_lens_{name}"] = cumulative.to(self.device)
        return torch.cat(parts).to(self.device), bounds


_current: ContextVar[Attention] = ContextVar("attention")


@contextlib.contextmanager
def using(attention: Attention) -> Iterator[None]:
    """Within this context the model's attention is that of a pack."""
    token = _current.set(attention)
    try:
        yield
    finally:
        _current.reset(token)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention (1, tokens, heads, head size) of a pack; query (1, heads, tokens, head size).

    Raises TypeError for what it knows nothing of: attention sinks, position biases.
    """
    if unknown := [name for name, value in others.items() if torch.is_tensor(value) and name not in HARMLESS]:
        raise TypeError(f"attention with {', '.join(unknown)}")
    attention = _current.get()
    attention.windows.add(sliding_window)
    key, value = attention.keys_values(module, key, value)
    if attention.kernel.startswith("flash"):
        return _flash(attention, query, key, value, scaling, sliding_window, softcap), None
    # SDPA can't cap scores, and transformers' own use of it silently doesn't.
    plain = attention.kernel == "eager" or softcap is not None
    repeats = query.shape[1] // key.shape[1]
    output = query.new_empty((1, query.shape[2], query.shape[1], value.shape[3]))
    for block in attention.blocks:
        keys, values = (_taken(part, block, repeats) for part in (key, value))
        queries = query[:, :, slice(*block.queries)]
        mask = attention.mask(block, sliding_window)
        if plain:
            found = _attend_plainly(queries, keys, values, mask, scaling, softcap)
        else:
            found = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scaling)
        output[:, slice(*block.queries)] = found.transpose(1, 2)
    return output, None


def _taken(keys: torch.Tensor, block: Block, repeats: int) -> torch.Tensor:
    """The keys (or values) of a block, those of grouped queries repeated for each of their heads."""
    parts = [keys[:, :, slice(*part)] for part in block.keys]
    taken = parts[0] if len(parts) == 1 else torch.cat(parts, 2)
    return taken if repeats == 1 else taken.repeat_interleave(repeats, 1)


def _attend_plainly(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~mask, -torch.inf).softmax(
        -1, dtype=torch.promote_types(scores.dtype, torch.float32)
    )
    return weights.to(value.dtype) @ value


def _flash(
    attention: Attention,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Flash attention as transformers calls it, on one sequence per prompt and per response."""
    index, bounds = attention.sequences
    query, key, value = (part.transpose(1, 2) for part in (query, key[:, :, index], value[:, :, index]))
    return _flash_attention_forward(
        query, key, value, None, query_length=query.shape[1], is_causal=True, softmax_scale=scaling,
        sliding_window=sliding_window, softcap=softcap, attn_implementation=attention.kernel, **bounds,
    )  # fmt: skip


AttentionInterface.register(NAME, attend)
