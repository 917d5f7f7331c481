"""Batches of pairs: what a row is known by, how long it is, and who computes what."""

from typing import Any, TypeVar

import torch

from dice.models.reference_table import IGNORED, row_hash

Item = TypeVar("Item")


def hashes(batch: dict[str, torch.Tensor]) -> list[str]:
    """The hash of every row of a padded batch, (2B, L): chosen, then rejected."""
    columns = [batch[name].cpu().numpy() for name in ("input_ids", "labels", "attention_mask")]
    return [row_hash(ids[mask > 0], labels[mask > 0]) for ids, labels, mask in zip(*columns, strict=True)]


def pair_hashes(pair: dict[str, Any]) -> list[str]:
    """The hashes of a tokenized pair: chosen, rejected."""
    return [row_hash(pair[f"{side}_input_ids"], pair[f"{side}_labels"]) for side in ("chosen", "rejected")]


def lengths(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Tokens of each row that are trained on, (2B,)."""
    return (batch["labels"][:, 1:] != IGNORED).sum(-1)


def share(items: list[Item], process: int, processes: int) -> list[Item]:
    """The items of one process out of several, equally many for each: some are done more than once.

    Every process takes part in every forward pass of ZeRO-3 and FSDP, so none may have one less.
    """
    rounds = -(-len(items) // processes)
    return [items[(turn * processes + process) % len(items)] for turn in range(rounds)]
