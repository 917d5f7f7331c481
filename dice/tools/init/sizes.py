"""The sizes of a new recipe: lengths by its data, the rest by what `plan` estimates for the machine."""

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dice.errors import BadInput, counted
from dice.inference.load import resolve_engine
from dice.launch.hardware import GIVEN, Machine
from dice.pairing import replay
from dice.recipe.keys import Recipe
from dice.tools.init.data import HELD_OUT_PAIRS, PAIRS, PROMPTS, Data
from dice.tools.plan.budget import Budget
from dice.tools.plan.workload import Workload, workload

# By whether there are GPUs: tokens of the longest pair that is kept, and of an answer at least and at most.
LONGEST = {True: (2048, 256, 1024), False: (512, 64, 256)}
COVERED = 99  # percent of the answers that have room
LORA = {"finetuning_type": "lora", "lora_target": "all", "lora_rank": 64, "lora_alpha": 128}
ZERO3 = "llama-factory/examples/deepspeed/zero3.json"
WAYS = {  # of training; the first that fits is taken
    "full": {"finetuning_type": "full"},
    "full, shared out by ZeRO-3": {"finetuning_type": "full", "deepspeed": ZERO3},
    "LoRA": LORA,
    "LoRA on weights in 4 bits": {**LORA, "quantization_bit": 4},
}
PER_DEVICE = (4, 2, 1)  # pairs in a forward pass; the first that fits
BATCHES = ((1000, 32), (200, 16), (8, 8), (4, 4), (0, 2))  # (pairs of a round at least, pairs a step)
RATES = ((3e9, 5e-7), (1e9, 1e-6), (0, 5e-6))  # of full training: (parameters at least, learning rate)
LORA_RATE = 5e-6
GAMMA = 0.5  # the share of a round's pairs that are replayed
TRIAL = 1200.0  # seconds that the start and a round may take on a CPU, by the plan's estimate


@dataclass(frozen=True)
class Models:
    """The models of a recipe and their template. Without a DPO model there, `policy` is still to be made."""

    policy: str
    reference: str
    template: str
    why: str  # the template is this one
    is_there: bool  # the policy
    is_adapter: bool  # the policy, which then can be trained as one only


@dataclass(frozen=True)
class Lengths:
    """In tokens."""

    row: int  # prompt and response
    answer: int


@dataclass(frozen=True)
class Fit:
    """Sizes that fit a machine; where none do, the smallest."""

    values: dict[str, Any]  # of dice.yaml
    args: dict[str, Any]  # of dpo.yaml and start.yaml, as far as they follow from the machine
    way: str
    planned: Budget

    @property
    def seconds(self) -> tuple[float, float]:
        """(the DPO start, a round), by the plan's estimate; NaN where nothing tells."""
        costs = {stage: self.planned.cost(stage) for stage in ("generate", "score", "pair", "train")}
        if None in costs.values():
            return math.nan, math.nan
        work = self.planned.work
        start = costs["train"].seconds * self.planned.ranked / max(1, work.generated + work.offline)
        return start, sum(cost.seconds for cost in costs.values())


def lengths_of(data: Data, context: int | None, on_gpu: bool) -> tuple[Data, Lengths]:
    """The pairs that are not too long, and lengths that have room for them and for answers to their prompts.

    Raises BadInput where all pairs, or all prompts, are too long for the model or the machine.
    """
    longest, least, most = LONGEST[on_gpu]
    longest = min(longest, context or longest)
    data = data.up_to(longest)
    answer = min(max(least, _up(np.percentile(data.lengths[:, 1], COVERED), 64)), most, longest // 2)
    data = data.asked_up_to(longest - answer)
    row = _up(max(data.rows.max(), data.asked.max() + answer), 128)
    return data, Lengths(min(row, context or row), answer)


def _up(number: float, step: int) -> int:
    return math.ceil(number / step) * step


def fit(models: Models, data: Data, lengths: Lengths, machine: Machine, folder: Path) -> Fit:
    """The sizes for data that lies in `folder`: the first way of training that fits into the memory."""
    on_gpu = machine.device.is_gpu
    train = {"config": "dpo.yaml", "global_batch_size": _batch(data, machine.count)}
    values = _values(models, data, lengths, on_gpu) | {"train": train}
    ways = {
        name: way
        for name, way in WAYS.items()
        if ("deepspeed" not in way or (on_gpu and machine.count > 1))
        and ("quantization_bit" not in way or on_gpu)
        and not (models.is_adapter and way["finetuning_type"] == "full")
    }
    work: Workload | None = None
    for (way, args), per_device in itertools.product(ways.items(), PER_DEVICE):
        bits = {"quantization_bit": 4} if "quantization_bit" in args else {}  # scoring sees the same weights
        sized = values | {"score": values["score"] | bits}
        args = {**args, "per_device_train_batch_size": per_device, "num_train_epochs": 1.0}
        recipe = _recipe(sized, args, models, machine, folder)
        work = work or workload(recipe)
        found = Fit(sized, args, way, Budget(recipe, machine, [work]))
        costs = [found.planned.cost(stage) for stage in ("train", "score")]
        if all(cost.fits(machine.device) if cost else "lora" in args.values() for cost in costs):
            break
    parameters = found.planned.policy.parameters if found.planned.policy else 0
    rate = next(rate for least, rate in RATES if parameters >= least)
    rate = LORA_RATE if "lora" in found.args.values() else rate
    return replace(found, args=found.args | {"learning_rate": rate})


def _batch(data: Data, processes: int) -> int:
    """Pairs a step, by those that a round trains on. Raises BadInput where they are less than a batch."""
    offline = len({pair.prompt_id for pair in data.pairs})
    rows = sum(replay.mixture_sizes(offline, data.count, GAMMA))
    batch = _up(next(batch for least, batch in BATCHES if rows >= least), processes)
    if rows < batch:
        given = f"{counted(offline, 'prompt')} with pairs and {counted(data.count, 'prompt')} to sample"
        raise BadInput(f"--pairs: {given} make {counted(rows, 'pair')} a round, less than a batch of {batch}")
    return batch


def _values(models: Models, data: Data, lengths: Lengths, on_gpu: bool) -> dict[str, Any]:
    """The values of dice.yaml that need no estimate."""
    samples, rounds = (16, 2) if on_gpu else (4, 1)
    return {
        "policy": models.policy,
        "reference": models.reference,
        "template": models.template,
        "rounds": rounds,
        "prompts": PROMPTS if data.prompts else PAIRS,
        "replay": {"dataset": PAIRS, "gamma": GAMMA},
        "generate": {
            "samples": samples,
            "temperature": 0.9,
            "max_new_tokens": lengths.answer,
            "max_model_len": lengths.row,
            **({} if on_gpu else {"shard_size": 32}),
        },
        "score": {"cutoff_len": lengths.row},
        "pair": {"min_samples": samples // 2},
        **({"evaluate": {"preferences": HELD_OUT_PAIRS}} if data.held_out else {}),
    }


def _recipe(
    values: dict[str, Any], args: dict[str, Any], models: Models, machine: Machine, folder: Path
) -> Recipe:
    """The recipe as `plan` would take it; the reference stands in for a policy that is still to be made."""
    given = {"run": "init", "dataset_dir": str(folder)}
    given |= {} if models.is_there else {"policy": models.reference}
    train = values["train"] | {"args": {"stage": "dpo", **args}}
    engine = "vllm" if machine.origin.startswith(GIVEN) else resolve_engine("auto")
    return Recipe.model_validate(values | given | {"train": train}).sampling(engine=engine)
