"""LLaMA-Factory's trainer of reward models (`stage: rm`), able to save models with tied embeddings.

Upstream leaves out tensors that are one object under two names; what it is handed today are two objects
on the same memory, which safetensors refuses to write.
"""

from typing import Any

import torch

from dice.models.llamafactory import llamafactory

Trainer = llamafactory("train.rm.trainer").PairwiseTrainer


class RewardTrainer(Trainer):
    """`Trainer`, with a copy of every tensor whose memory another one has as well."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, apart(self.model.state_dict() if state_dict is None else state_dict))


def apart(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors, none of which begin at the same place in memory."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found


def install() -> None:
    """Make LLaMA-Factory train reward models with `RewardTrainer`."""
    llamafactory("train.rm.workflow").PairwiseTrainer = RewardTrainer
