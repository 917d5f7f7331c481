"""LLaMA-Factory's DPO trainer with the losses of `losses.py`, whether batches are read in packs or not."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch

from batches import hashes, lengths, pair_hashes
from losses import kto_pair_loss, per_token, smoothed, wpo_weights
from packed_trainer import Batch, PackedTrainer


class LossTrainer(PackedTrainer):
    """`PackedTrainer` with the loss that `loss`, a class attribute, names, and labels smoothed row by row."""

    loss: str | None = None
    smooths = False  # whether rows have a column `smoothing`

    @cached_property
    def smoothing(self) -> dict[tuple[str, ...], float]:
        """How far each pair's label is to be smoothed, by the hashes of its rows."""
        pairs = self._pairs() if self.smooths else ()
        return {tuple(pair_hashes(pair)): pair["smoothing"] for *_, pair in pairs}

    def _pairs(self) -> Iterator[tuple[Any, int, dict[str, Any]]]:
        for part in (self.train_dataset, self.eval_dataset):
            for dataset in part.values() if isinstance(part, dict) else [part]:
                yield from ((dataset, index, pair) for index, pair in enumerate(dataset or ()))

    def concatenated_forward(
        self, model: torch.nn.Module, batch: Batch, is_ref_model: bool = False
    ) -> dict[str, torch.Tensor]:
        """As upstream; what a loss needs to know of the policy's batch is kept."""
        output = super().concatenated_forward(model, batch, is_ref_model)
        if not is_ref_model:
            self.batch = batch
            if self.weighs:
                logps = torch.cat([output["chosen_logps"], output["rejected_logps"]])
                self.weights = wpo_weights(logps, output["concentrations"], lengths(batch))
        return output

    def dpo_loss(self, *logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss, (B,), and the rewards of chosen and rejected.

        `logps` are the policy's of chosen and rejected, then the reference's.
        """
        if self.loss == "length_normalized":
            logps = per_token(logps, lengths(self.batch))
        losses, *rewards = self._named_loss(*logps)
        if self.smoothing:
            chosen, rejected, ref_chosen, ref_rejected = logps
            turned_round, *_ = self._named_loss(rejected, chosen, ref_rejected, ref_chosen)
            rows = hashes(self.batch)
            sides = zip(rows[: len(losses)], rows[len(losses) :], strict=True)
            losses = smoothed(losses, turned_round, losses.new_tensor([self.smoothing[key] for key in sides]))
        return (losses * self.weights if self.weighs else losses), *rewards

    def _named_loss(self, *logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The loss that `pref_loss` names.

        Upstream does not tell TRL which one it wants, so hinge, ipo and kto_pair would silently be sigmoid.
        """
        if self.loss_type == "kto_pair":  # which TRL no longer has
            return kto_pair_loss(*logps, beta=self.beta)
        return super().dpo_loss(*logps, loss_type=self.loss_type)
