"""A recipe's stages one by one: what is done, what is to do, what it takes and how long."""

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from dice.errors import counted
from dice.launch.hardware import GIB
from dice.models import hub
from dice.rewards.source import source_of
from dice.run.run import Run
from dice.run.stage import preview
from dice.stages import evaluate, generate
from dice.stages.order import ROUND, stages_of
from dice.tools.plan import estimate
from dice.tools.plan.budget import Budget
from dice.tools.plan.estimate import Cost
from dice.tools.plan.sizes import Size
from dice.tools.plan.workload import Workload


@dataclass(frozen=True)
class Row:
    """A stage of a round in the plan."""

    round: int
    stage: str
    rows: str
    cost: Cost | None
    state: str  # done, to do, or why it runs again
    seconds: float  # still to come; NaN where they can't be told
    measured: bool = False  # the seconds are of a round of this run
    done: bool = False


def with_measured_lengths(planned: Budget, run: Run) -> Budget:
    """The budget with the response length of a round that was sampled, where there is one."""
    for t in range(run.recipe.rounds, 0, -1):
        manifest, reasons = preview(generate.STAGE, run, t)
        if manifest and not reasons:
            mean = manifest.figures["tokens"] / manifest.rows_out
            told = [text for text in planned.work.assumptions if "tokens a response" not in text]
            told.append(f"{mean:,.0f} tokens a response, as sampled in round {t}")
            works = [replace(work, response_tokens=mean, assumptions=told) for work in planned.works]
            return replace(planned, works=works)
    return planned


def rows_of(planned: Budget, run: Run, here: bool) -> Iterator[Row]:
    measured = _measured(run) if here else {}
    changed, at = False, functools.cache(planned.at)
    for one, t in stages_of(run):
        text, cost = _rows(at(t))[one.name], at(t).cost(one.name)
        manifest, reasons = preview(one, run, t)
        if manifest and not reasons and not changed:
            yield Row(t, one.name, text, cost, f"done in {manifest.seconds:,.0f} s", 0.0, done=True)
            continue
        changed = True
        possible = cost and cost.fits(planned.machine.device)
        seconds = cost.seconds if possible else math.nan
        if one.name in measured:
            seconds = measured[one.name] * _counts(at(t).work)[one.name]
        state = f"again: {reasons[0]}" if reasons else "to do"
        yield Row(t, one.name, text, cost, state, seconds, one.name in measured)


def _rows(planned: Budget) -> dict[str, str]:
    """What each stage of a round has to do, in words."""
    work = planned.work
    return {
        "generate": f"{counted(work.responses, 'response')} to {counted(work.prompts, 'prompt')}",
        "score": f"{work.responses:,} {source_of(planned.recipe).title}",
        "train_rm": "a reward model of the offline pairs",
        "pair": f"{counted(work.generated, 'pair')} and {work.offline:,} offline",
        "train": f"{counted(work.steps, 'step')} of {counted(work.batch, 'pair')}",
        "agree": counted(planned.labelled, "held-out label"),
        "evaluate": counted(planned.evaluated, "answer"),
    }


def _counts(work: Workload) -> dict[str, int]:
    """The rows that a stage's seconds are measured by."""
    rows = dict.fromkeys(("generate", "score", "pair"), work.responses)
    return {**rows, "train": work.generated + work.offline, "evaluate": 1}


def _measured(run: Run) -> dict[str, float]:
    """Seconds a row that stages took in a round of this run under the same settings."""
    found = {}
    for t in range(1, run.recipe.rounds + 1):
        for one in ROUND:
            manifest = one.manifest(run, t)
            whole = manifest and not manifest.resumed  # else the seconds are of a part
            if whole and manifest.recipe == one.settings(run, t):
                done = manifest.rows_out if one.name == "generate" else manifest.rows_in
                found[one.name] = manifest.seconds / max(1, done)
    manifest, reasons = preview(evaluate.STAGE, run, 0)
    whole = manifest and not reasons and not manifest.resumed
    return found | ({"evaluate": manifest.seconds} if whole else {})


def memory_advice(planned: Budget) -> str | None:
    """Which stage does not fit into a device's memory and what would help; None where all fit."""
    machine = planned.machine
    for name in ("train", "generate", "score"):
        cost = planned.cost(name)
        if cost is None or cost.fits(machine.device):
            continue
        device = machine.device
        room = cost.share * device.memory / GIB if name == "generate" else device.memory / GIB
        there = f"the {room:,.0f} GiB of {'one ' if device.is_gpu else 'this '}{device.name}"
        what = f"{name} needs about {cost.memory / GIB:,.0f} GiB, more than {there}"
        if name != "train":
            spread = name == "generate" and planned.recipe.generate.engine == "vllm"
            more = ", or set generate.tensor_parallel or generate.max_model_len" if spread else ""
            return f"{what}: take a GPU with more memory or a smaller model{more}"
        return f"{what}; what helps: {', '.join(_what_helps(planned))}"
    return None


def _what_helps(planned: Budget) -> list[str]:
    """What would make training smaller that the recipe does not do already."""
    machine, training = planned.machine, planned.training
    helps = []
    if not training.quantization_bit:  # DeepSpeed does not split weights in 4 bits
        least = estimate.least_gpus(planned.policy, machine, training, planned.longest)
        known = machine.device.is_gpu and least
        helps += [f"at least {least} of these GPUs" if known else "ZeRO-3 on more GPUs"]
    if training.kind != "lora":
        helps += ["LoRA (train.finetuning_type=lora)"]
    if not training.quantization_bit:
        helps += ["a DeepSpeed file with offload"]
    return helps or ["a GPU with more memory", "a smaller model", "shorter rows (score.cutoff_len)"]


def existing(path: Path) -> Path:
    """The nearest folder above (or at) a path that is there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())


def download_bytes(name: str, size: Size) -> int:
    """Bytes that a model of the Hub takes: as the Hub says, else two per parameter."""
    with contextlib.suppress(hub.OutOfReach, hub.NoSuchModel):
        return hub.look_up(name).size or 2 * size.parameters
    return 2 * size.parameters


def gigabytes(count: float) -> str:
    """Bytes for people, in powers of ten."""
    scale, unit = next((pair for pair in ((1e12, "TB"), (1e9, "GB")) if count >= pair[0]), (1e6, "MB"))
    return f"{count / scale:,.{1 if count < 10 * scale else 0}f} {unit}"
