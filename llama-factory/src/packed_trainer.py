"""LLaMA-Factory's DPO trainer, with batches read in packs where that gives the same log-probs.

With `pack_tokens` the first batch is read twice: by LLaMA-Factory's own forward and in packs (`packed.py`).
Where the two agree within rounding, all batches are read in packs. This is decided for the policy, and for a
reference model by itself.
Every process does the same: what ZeRO-3 and FSDP gather in a forward pass, all of them gather together.
"""

import inspect
import math
import time
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from batches import lengths
from dice.errors import BadInput, first_line
from dice.inference.exactness import knows_windows
from dice.inference.positions import rows_apart
from dice.launch.hardware import recognize, trained_flops
from dice.models.llamafactory import llamafactory
from dice.models.reference_table import IGNORED
from losses import concentration
from packed import Packed, pack_of

# How far a row's log-prob may be from itself, computed another way, in nats per square root of its
# tokens: rounding errors add up like a random walk. Another model is off by whole nats.
ROUNDING = {True: 0.2, False: 1e-3}  # in half precision (or quantized), and in single precision
MEANS = ("ipo", "orpo", "simpo")  # values of pref_loss whose log-probs are means over tokens

Batch = dict[str, torch.Tensor]


class PackedTrainer(llamafactory("train.dpo.trainer").CustomDPOTrainer):
    """The trainer that `pack_tokens`, a class attribute, is set for: "auto", a number, or "off"."""

    pack_tokens: str | int = "off"
    weighs = False  # whether outputs have `concentrations`, (2B,): the sum over a row's tokens

    def __init__(
        self, *, model: torch.nn.Module, ref_model: torch.nn.Module | None = None, **kwargs: Any
    ) -> None:
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.selects_logits = "logits_to_keep" in inspect.signature(base.forward).parameters
        if self.pack_tokens != "off":  # before anything wraps the models
            self.policy_packed = Packed(model, self.weighs)
            same = ref_model is None or ref_model is model
            self.reference_packed = self.policy_packed if same else Packed(ref_model)
        self.tokens, self.seconds = 0, 0.0  # of the steps since the last log
        trained, parameters = llamafactory("extras.misc").count_parameters(model)
        self.token_flops = trained_flops(parameters, trained)
        super().__init__(model=model, ref_model=ref_model, **kwargs)
        self.add_callback(StepClock(self))

    def is_rough(self) -> bool:
        """Whether log-probs are those of half precision."""
        weights = {parameter.dtype for parameter in self.model.parameters()}
        return self.args.bf16 or self.args.fp16 or weights != {torch.float32}

    def concatenated_forward(
        self, model: torch.nn.Module, batch: Batch, is_ref_model: bool = False
    ) -> dict[str, torch.Tensor]:
        """As upstream: log-probs and logits of chosen and rejected; in packs, logits are means by row."""
        packed = None if self.pack_tokens == "off" else self._packed(model)
        if packed and packed.agrees is not False and (job := self._job(model, batch)):
            if packed.agrees is None:
                packed.agrees = self._agrees(model, batch, job)
            if packed.agrees:
                return self._in_packs(model, job, batch)
        return self._as_upstream(model, batch, is_ref_model)

    def _as_upstream(
        self, model: torch.nn.Module, batch: Batch, is_ref_model: bool
    ) -> dict[str, torch.Tensor]:
        """Upstream's own way, with logits that begin where the first response of the batch does.

        Those of prompts are of no use, and with a large vocabulary they are most of the memory. Positions are
        those of scoring.
        """
        batch = {**batch}  # upstream takes the labels out
        labels = batch["labels"]
        if self.selects_logits:
            begin = int((labels != IGNORED).any(0).int().argmax()) - 1  # the token before predicts it
            kept = labels.shape[1] - max(0, begin)
            labels = labels[:, -kept:]
            batch |= {"labels": labels, "logits_to_keep": kept}
        with rows_apart(self.accelerator.unwrap_model(model), batch["attention_mask"].sum(1)):
            output = super().concatenated_forward(model, batch, is_ref_model)
        if self.weighs:
            logits, there = (*output["chosen_logits"], *output["rejected_logits"]), labels[:, 1:] != IGNORED
            known = (row.detach()[:-1][own] for row, own in zip(logits, there, strict=True))
            output["concentrations"] = torch.stack([concentration(row).sum() for row in known])
        return output

    def _packed(self, model: torch.nn.Module) -> Packed:
        return self.reference_packed if model is self.ref_model else self.policy_packed

    def _job(self, model: torch.nn.Module, batch: Batch) -> dict[str, Any] | None:
        """What to call a model with to read a batch in a pack.

        None where a process has a batch that can't be one. All have as many chunks of logits as the one with
        most, since ZeRO-3 gathers the head's weights for each.
        """
        packed = self._packed(model)
        pack, device = pack_of(batch, packed.limit), self.accelerator.device
        own = torch.tensor([packed.chunks(pack) if pack else 0], device=device)
        chunks = self.accelerator.gather(own)
        return packed.arguments(pack, int(chunks.max()), device) if pack and chunks.all() else None

    def _in_packs(self, model: torch.nn.Module, job: dict[str, Any], batch: Batch) -> dict[str, torch.Tensor]:
        sums, logits, concentrations = model(**job)
        means = sums / lengths(batch)
        output = {"chosen_logps_avg": means.chunk(2)[0], "concentrations": concentrations}
        for name, values in (("logps", means if self.loss_type in MEANS else sums), ("logits", logits)):
            output[f"chosen_{name}"], output[f"rejected_{name}"] = values.chunk(2)
        return output

    @torch.no_grad()
    def _agrees(self, model: torch.nn.Module, batch: Batch, job: dict[str, Any]) -> bool:
        """Whether a model is read in packs, the same in all processes.

        Raises BadInput where it isn't and a budget needs packs.
        """
        reasons = [reason for reason in gather_object([self._refusal(model, batch, job)]) if reason]
        if reasons and self.pack_tokens != "auto":
            raise BadInput(f"pack_tokens is {self.pack_tokens}, but {reasons[0]}; set it to off")
        if self.is_world_process_zero():
            told = f"by LLaMA-Factory's forward: {reasons[0]}" if reasons else "in packs: log-probs agree"
            reader = "reference" if model is self.ref_model else "policy"
            print(f"the {reader} reads pairs {told}", flush=True)
        return not reasons

    def _refusal(self, model: torch.nn.Module, batch: Batch, job: dict[str, Any]) -> str | None:
        """Why a batch can't be read in packs; None where log-probs agree with those of upstream's way."""
        packed = self._packed(model)
        name = type(packed.model).__name__
        if not packed.may:
            return f"the attention of {name} can't be replaced"
        if self.ld_alpha is not None:
            return "ld_alpha is for log-probs of single tokens"
        expected = self._as_upstream(model, batch, True)
        try:
            found = self._in_packs(model, job, batch)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a family that works otherwise may raise
            return f"{name} does not take them ({type(error).__name__}: {first_line(error)})"
        if not knows_windows(packed.windows, packed.model):
            return f"{name} does not tell its sliding window"
        ours, theirs = (
            torch.cat([side["chosen_logps"], side["rejected_logps"]]) for side in (found, expected)
        )
        counts = lengths(batch)
        scale = (counts if self.loss_type in MEANS else 1) / counts.sqrt()
        apart = float(((ours - theirs).abs() * scale).max())  # no number where a log-prob is none
        limit = ROUNDING[self.is_rough()]
        if not apart <= limit:
            return (
                f"log-probs differ by {apart:.3g} nats per square root of a response's tokens from what "
                f"{name} computes by itself; rounding explains {limit:g}"
            )
        return None

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Batch], Any]:
        """As upstream: the batches of an optimizer step; keeps how many rows each has on average."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self.mean_rows = sum(len(batch["labels"]) for batch in batches) / max(1, len(batches))
        return batches, items

    def get_batch_loss_metrics(
        self, model: torch.nn.Module, batch: Batch, train_eval: str = "train"
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """As upstream, but a batch has the weight of its pairs, so that all pairs of a step count the same.

        The last step of an epoch can have a smaller batch. (With several processes none is smaller: upstream
        fills it up with pairs of before.) Counts the tokens of chosen and rejected rows, without padding.
        """
        loss, metrics = super().get_batch_loss_metrics(model, batch, train_eval)
        if train_eval == "train":
            self.tokens += int(batch["attention_mask"].sum())
            weight = len(batch["labels"]) / self.mean_rows
            loss, metrics = loss * weight, {name: value * weight for name, value in metrics.items()}
        return loss, metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As upstream, with the speed of the steps since the last time."""
        if "loss" in logs and self.seconds:
            logs |= self._speed()
            self.tokens, self.seconds = 0, 0.0
        super().log(logs, *args, **kwargs)

    def _speed(self) -> dict[str, float]:
        """Tokens per second in all processes; the share of the GPUs' matrix rate too where that is known."""
        tokens = torch.tensor(self.tokens, device=self.accelerator.device)
        rate = int(self.accelerator.reduce(tokens, "sum")) / self.seconds
        share = rate * self.token_flops / (matrix_rate() * self.accelerator.num_processes)
        told = {} if math.isnan(share) else {"share_of_matrix_rate": round(share, 4)}
        return {"tokens_per_second": round(rate, 1), **told}


def matrix_rate() -> float:
    """FLOPs a second of this process's GPU, in bfloat16; NaN for a CPU and for a GPU that nobody knows."""
    if not torch.cuda.is_available():
        return math.nan
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    return recognize(gpu.name, gpu.total_memory).flops


class StepClock(TrainerCallback):
    """Times a trainer's steps; evaluation and checkpoints are between them."""

    def __init__(self, trainer: PackedTrainer) -> None:
        self.trainer, self.began = trainer, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.trainer.seconds += time.perf_counter() - self.began
