"""Positions that a model encodes by the longest row of a forward pass, row by row.

"longrope" and "dynamic" position encodings (Phi 3) encode a row beyond a limit differently, from its first
token on. transformers then encodes all rows of the forward pass like the longest one, and, if they are
dynamic, those of later passes as well. Here a row has the positions that it has by itself.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

STRETCHED = {"dynamic", "longrope"}


def longest_beside_others(model: torch.nn.Module) -> float:
    """Tokens up to which a row's positions are encoded the same, whatever rows are in its forward pass.

    Infinity for encodings that do not depend on the length of a row.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    limits = [float("inf")]
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") in STRETCHED:
            limits.append(part.get("original_max_position_embeddings") or config.max_position_embeddings)
    return min(limits)


@contextlib.contextmanager
def rows_apart(model: torch.nn.Module, lengths: Tensor) -> Iterator[None]:
    """Within this context each row of a batch has the positions of a forward pass of its own.

    `lengths`, (B,), are the rows' tokens without padding, those in a cache included.
    """
    hooks = []
    if (limit := longest_beside_others(model)) < float("inf") and lengths.max() > limit:
        encode = partial(_encode, lengths.tolist())
        modules = (module for module in model.modules() if STRETCHED & {*_kinds(module).values()})
        hooks = [module.register_forward_hook(encode, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _encode(
    lengths: list[int], module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any], _output: Any
) -> tuple[Tensor, ...]:
    """Cosines and sines, (B, L, size) each, in place of what the module has made for all rows alike."""
    named = dict(zip(("x", "position_ids", "layer_type"), given, strict=False)) | named
    x, positions = named.pop("x"), named.pop("position_ids").expand(len(lengths), -1)
    rows = []
    for row, length in zip(positions, lengths, strict=True):
        _reset(module, x.device)
        rows.append(module.forward(x, row[None].clamp(max=length - 1), **named))  # no padding is longer
    _reset(module, x.device)
    return tuple(map(torch.cat, zip(*rows, strict=True)))


def _kinds(module: torch.nn.Module) -> dict[str, str]:
    """The position encodings of a module, by the layers that they are for."""
    kinds = getattr(module, "rope_type", None) or {}
    return {"": kinds} if isinstance(kinds, str) else kinds


def _reset(module: torch.nn.Module, device: torch.device) -> None:
    """Make dynamic encodings what they are for short rows: in this version transformers never does."""
    for layers, kind in _kinds(module).items():
        prefix = f"{layers}_" if layers else ""
        if kind == "dynamic":
            setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq").to(device))
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
