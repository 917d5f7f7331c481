"""LLaMA-Factory's DPO trainer without a reference model in memory, checked before its first step.

With `reference_logps: table` the reference is the policy itself at the start of the training. Its
log-probs come from a table (`dice/models/reference_table.py`): scoring saved most of them, the rest is
computed here by the policy before the first step, when the two are still the same model. Checkpoints keep the
table, because by the time of a resume the policy has moved.

With `reference_logps: model` the reference is LLaMA-Factory's own. In both cases the implicit rewards of
the first batch must be 0 within rounding: every round of DICE starts at its reference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from batches import hashes, lengths, pair_hashes, share
from dice.errors import BadInput
from dice.models.llamafactory import llamafactory
from dice.models.reference_table import ReferenceTable
from dice.models.trainer import checkpoint_facts, mark_complete, remove_earlier
from dice.run import files
from loss_trainer import LossTrainer
from packed_trainer import ROUNDING

TABLE, COUNTS = "reference.safetensors", "reference.json"  # in a checkpoint's folder
ROOT_OF_TOKENS = "square root of a response's tokens"


@dataclass(frozen=True)
class Reference:
    """The part of a training file that is DICE's own."""

    logps: str | None = None  # table, model, or as upstream without a word
    table: Path | None = None  # what is known of it beforehand
    policy: str | None = None  # what identifies the model that training begins with; by default its name
    keeps_all: bool = True  # checkpoints; else a complete one replaces those before it


class ReferenceTrainer(LossTrainer):
    """`LossTrainer` with the reference of `reference`, a class attribute that `install` sets."""

    reference = Reference()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = ReferenceTable()
        self.uses_table = self.finetuning_args.use_ref_model and self.reference.logps == "table"
        self.known: frozenset[str] = frozenset()  # the table's rows that were not computed here
        self.counts: dict[str, int] = {}  # rows of the data: known beforehand, computed here
        # Pairs of which the table lacks a side: tokens of the longer one, data set, index.
        self.missing: list[tuple[int, Any, int]] = []
        self.start_is_due = False  # whether the check of the first batch is still to be done
        self.add_callback(Hooks(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Read the table first. Raises BadInput for a table of other data, a checkpoint of another model."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(self.args.output_dir)
        if checkpoint := resume_from_checkpoint:
            ours = self.identity
            policy = checkpoint_facts(Path(checkpoint)).get("policy", ours)
            if policy != ours:
                raise BadInput(f"{checkpoint}: its training began with {policy}, not with {ours}")
        if self.uses_table:
            self._read_table(resume_from_checkpoint)
        has_reference = self.reference.logps and self.finetuning_args.use_ref_model
        self.start_is_due = bool(has_reference) and not resume_from_checkpoint
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    @property
    def identity(self) -> str:
        """What a checkpoint's training is said to have begun with."""
        return self.reference.policy or self.model.name_or_path

    def _read_table(self, checkpoint: str | None) -> None:
        source = Path(checkpoint) / TABLE if checkpoint else self.reference.table
        if source:
            self.table = ReferenceTable.load(source)
            self.known = frozenset(self.table)
        known = rows = highest = 0
        for dataset, index, pair in self._pairs():
            highest = max(highest, *pair["chosen_input_ids"], *pair["rejected_input_ids"])
            found = [key in self.table for key in pair_hashes(pair)]
            rows, known = rows + 2, known + sum(found)
            if not all(found):
                longest = max(len(pair["chosen_input_ids"]), len(pair["rejected_input_ids"]))
                self.missing.append((longest, dataset, index))
        if highest >= (size := self.model.get_input_embeddings().num_embeddings):
            raise BadInput(
                f"{self.model.name_or_path} has embeddings for token ids below {size:,}; the data have "
                f"{highest:,}"
            )
        if checkpoint and known < rows:
            raise BadInput(
                f"{source}: {rows - known:,} of the {rows:,} responses are not in it; the checkpoint was "
                "trained on other data"
            )
        if self.table and not known:
            raise BadInput(
                f"{source}: none of the {rows:,} responses is in it; it belongs to other data, or to "
                "another template or tokenizer"
            )
        self.counts = {"known": known, "computed": rows - known}
        if checkpoint:  # what was computed before the interruption is known now
            self.counts = files.read_json(Path(checkpoint) / COUNTS) or self.counts
        if self.is_world_process_zero():
            files.write_json(Path(self.args.output_dir) / COUNTS, self.counts)
            print(
                f"reference log-probs: {known:,} of {rows:,} are known, {rows - known:,} to compute",
                flush=True,
            )

    @torch.no_grad()
    def fill_table(self) -> None:
        """Compute what is missing with the policy, in the mode of evaluation.

        The longest come first, so that too little memory shows at once.
        """
        if not self.missing:
            return
        places = sorted(self.missing, key=lambda place: place[0], reverse=True)
        size, world = self.args.per_device_train_batch_size, self.accelerator.num_processes
        batches = [places[start : start + size] for start in range(0, len(places), size)]
        model = self.model_wrapped
        model.eval()
        found: list[tuple[str, float]] = []
        for batch in share(batches, self.accelerator.process_index, world):
            inputs = self._prepare_inputs(self.data_collator([dataset[index] for _, dataset, index in batch]))
            logps = self._summed_logps(model, inputs).tolist()
            found += zip(hashes(inputs), logps, strict=True)
        model.train()
        self.table.update(gather_object(found))
        self.missing = []

    def _summed_logps(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """(2B,) in nats: the chosen responses of a batch, then the rejected ones."""
        with self.compute_loss_context_manager():
            output = self.concatenated_forward(model, inputs, is_ref_model=True)
        logps = torch.cat([output["chosen_logps"], output["rejected_logps"]])
        return logps * lengths(inputs) if self.loss_type == "ipo" else logps  # IPO's are means

    def compute_reference_log_probs(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """As upstream, (B,) each for chosen and rejected; from the table where there is one."""
        if not self.uses_table:
            return super().compute_reference_log_probs(model, batch)
        known = [self.table[key] for key in hashes(batch)]
        logps = torch.tensor(known, dtype=torch.float32, device=batch["input_ids"].device)
        if self.loss_type == "ipo":
            logps /= lengths(batch)
        chosen, rejected = logps.chunk(2)
        return chosen, rejected

    def get_batch_loss_metrics(
        self, model: torch.nn.Module, batch: dict[str, torch.Tensor], train_eval: str = "train"
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """As upstream, after the check of the first batch."""
        if self.start_is_due and train_eval == "train":
            self.start_is_due = False
            self._check_start(model, batch)
        return super().get_batch_loss_metrics(model, batch, train_eval)

    @torch.no_grad()
    def _check_start(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
        """Raises BadInput where the implicit rewards of the first batch are not 0 within rounding."""
        reference = torch.cat(self.compute_reference_log_probs(model, batch))
        if self.loss_type == "ipo":
            reference = reference * lengths(batch)
        limit = ROUNDING[self.is_rough()]
        apart, most = self._apart(self._summed_logps(model, batch), reference, batch)
        if self.is_world_process_zero():
            print(f"at step 0 implicit rewards are 0 within {most:.2g} nats per {ROOT_OF_TOKENS}", flush=True)
        if apart <= limit:
            return
        model.eval()
        in_evaluation, _ = self._apart(self._summed_logps(model, batch), reference, batch)
        model.train()
        if in_evaluation <= limit:
            reason = "the policy side is wrong: its log-probs are right in evaluation, but not in training"
        else:
            name = self.reference.table or "the table"
            held = f"{name} does not hold the log-probs of"
            if not self.uses_table:
                held = f"{self.finetuning_args.ref_model or 'the base without its adapter'} is not"
            reason = f"the reference side is wrong: {held} the policy that is trained"
        raise BadInput(
            f"at step 0 the policy is not its reference: log-probs differ by {apart:.3g} nats per "
            f"{ROOT_OF_TOKENS}, rounding explains {limit:g}; {reason} ({self.model.name_or_path})"
        )

    def _apart(
        self, ours: torch.Tensor, theirs: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> tuple[float, float]:
        """How far log-probs of all processes' batches are apart, per square root of the tokens.

        The median over rows (where some were known beforehand and some computed, the worse of the two), and
        the largest.
        """
        scaled = ((ours - theirs).abs() / lengths(batch).sqrt()).tolist()
        known = [row in self.known for row in hashes(batch)]
        rows = gather_object(list(zip(known, scaled, strict=True)))
        groups = ([apart for known, apart in rows if known is origin] for origin in (True, False))
        return max(float(np.median(group)) for group in groups if group), max(apart for _, apart in rows)


class Hooks(TrainerCallback):
    """What has to happen once the model is where it trains, and once a checkpoint is written."""

    def __init__(self, trainer: ReferenceTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.fill_table()

    def on_save(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Complete a checkpoint: the table, and last the marker that says so.

        That of the last step is none to go on from: the trainer would take one step more.
        """
        trainer = self.trainer
        trainer.accelerator.wait_for_everyone()  # every process has written its part
        is_last = state.global_step >= state.max_steps
        if is_last or args.save_only_model or not trainer.is_world_process_zero():
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if trainer.uses_table:
            trainer.table.save(checkpoint / TABLE)
            files.write_json(checkpoint / COUNTS, trainer.counts)
        if not (checkpoint / "config.json").exists() and not (checkpoint / "adapter_config.json").exists():
            trainer.model.config.save_pretrained(checkpoint)  # FSDP's parts come without
            trainer.processing_class.save_pretrained(checkpoint)
        mark_complete(checkpoint, trainer.identity, trainer.accelerator.num_processes)
        if not trainer.reference.keeps_all:
            remove_earlier(checkpoint)


def install(
    reference: Reference, pack_tokens: str | int = "off", loss: str | None = None, smooths: bool = False
) -> None:
    """Make LLaMA-Factory's DPO use `ReferenceTrainer`, and load no reference model that it won't need."""
    ReferenceTrainer.reference, ReferenceTrainer.pack_tokens = reference, pack_tokens
    ReferenceTrainer.loss, ReferenceTrainer.smooths, ReferenceTrainer.weighs = loss, smooths, loss == "wpo"
    llamafactory("train.dpo.trainer").CustomDPOTrainer = ReferenceTrainer
    if reference.logps == "table":
        llamafactory("train.dpo.workflow").create_ref_model = lambda *_: None
