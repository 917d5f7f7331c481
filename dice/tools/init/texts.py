"""The files of a new recipe: YAML and a README, which say what was decided and why."""

import math
import shlex
from pathlib import Path
from typing import Any

import yaml

from dice.errors import counted, printable
from dice.launch.hardware import GIB, Machine
from dice.recipe.values import literal
from dice.run import files
from dice.tools.init.data import PAIRS, Data
from dice.tools.init.sizes import Fit, Models
from dice.tools.plan import hours, rounded
from dice.tools.templates import template

COMMON = {
    "pref_beta": 0.1,
    "pref_loss": "sigmoid",
    "bf16": True,
    "flash_attn": "auto",
    "preprocessing_num_workers": 4,
    "save_strategy": "steps",
    "report_to": "none",
}
ROUND = "LLaMA-Factory DPO for one round; the loop adds model and data."
START = "The DPO start, made once by LLaMA-Factory: one epoch of DPO on the pairs."


def write(folder: Path, place: str, models: Models, fit: Fit, told: dict[str, str]) -> None:
    """Write dice.yaml, dpo.yaml, README.md and, for a policy that is still to be made, start.yaml.

    `place` is what the files call the folder; `told` says what was decided, by topic.
    """
    values, work = {**fit.values, "seed": 42, "dataset_dir": place}, fit.planned.work
    args = {"stage": "dpo", "do_train": True, **fit.args, "template": models.template}
    args |= {"cutoff_len": fit.values["score"]["cutoff_len"], **COMMON}
    constant = {"lr_scheduler_type": "constant_with_warmup", **_paces(work.steps)}
    _write(folder / "dpo.yaml", [ROUND], args | constant)
    if not models.is_there:
        script = ["python", "scripts/data/prepare_dpo.py", f"{place}/start.yaml", models.policy]
        values["prepare"] = shlex.join(script)
        each = args["per_device_train_batch_size"]
        start = {
            "model_name_or_path": models.reference,
            "dataset": PAIRS,
            "dataset_dir": place,
            "reference_logps": "table",
            "pack_tokens": "auto",
            "per_device_train_batch_size": (each := math.gcd(each, work.batch)),
            "gradient_accumulation_steps": work.batch // each,
            "lr_scheduler_type": "cosine",
            **_paces(max(1, fit.planned.ranked // work.batch)),
        }
        _write(folder / "start.yaml", [START], args | start)
    _write(folder / "dice.yaml", [f"{topic}: {text}" for topic, text in told.items()], literal(values))
    page = template("recipe.md").render(
        name=Path(place).name,
        commands=commands(place, models),
        told=told,
        models=models,
        place=place,
        held_out="evaluate" in fit.values,
    )
    files.write_text(folder / "README.md", page)


def decisions(models: Models, data: Data, fit: Fit, machine: Machine) -> dict[str, str]:
    """What was decided and why, by topic."""
    planned, args, generate = fit.planned, fit.args, fit.values["generate"]
    work, size, cost = planned.work, planned.policy, planned.cost("train")
    known = f"{rounded(size.parameters)} parameters, from {size.source}" if size else "size unknown"
    room = cost and f"about {cost.memory / GIB:,.1f} of {machine.device.memory / GIB:,.0f} GiB"
    start, each = map(hours, fit.seconds)
    held_out = f", {counted(len(data.held_out), 'pair')} held out to measure the reward with"
    best = "the first way that fits, " if cost and cost.fits(machine.device) else ""
    told = {
        "model": f"{models.policy if models.is_there else models.reference} ({known})",
        "start": f"{models.reference} is the model before its DPO",
        "template": f"{models.template}: {models.why}",
        "data": f"{data.told}; used: {counted(len(data.pairs), 'pair')}, {counted(data.count, 'prompt')}"
        f"{held_out if data.held_out else ''}",
        "machine": str(machine),
        "training": f"{fit.way}: {best}{room or 'nobody knows the memory that it takes'}",
        "batch": f"{counted(work.batch, 'pair')} a step, {counted(work.steps, 'step')} a round, "
        f"learning rate {args['learning_rate']:g}",
        "lengths": f"{generate['max_new_tokens']:,} tokens an answer, {fit.values['score']['cutoff_len']:,} "
        "with its prompt, by those of the data",
        "samples": f"{counted(generate['samples'], 'answer')} to a prompt",
        "time": f"about {each} a round" if each != "?" else "not known for such a GPU or model",
    }
    if not models.is_there:
        told["start"] = f"an SFT model alone; DPO on the pairs makes {models.policy} of it first (`prepare`)"
        told["time"] += f", after {start} for the start" if start != "?" else ""
    if not machine.device.is_gpu:
        told["trial"] = "CPUs are slow: one round of few pairs, samples and tokens, to see that it runs"
    return {topic: printable(text) for topic, text in told.items()}


def commands(name: str, models: Models) -> str:
    """The commands that come next, for a recipe by its name, each with what it is for."""
    told = [("python -m dice doctor", "what would go wrong"), ("python -m dice plan", "memory, disk, hours")]
    told += [] if models.is_there else [("python -m dice prepare", "the DPO start; iter.sh makes it as well")]
    told += [("bash scripts/run_dice/iter.sh", "the rounds")]
    return "\n".join(f"  {f'{command} {shlex.quote(name)}':<50}  # {what}" for command, what in told)


def _paces(steps: int) -> dict[str, int]:
    """What is counted in steps: a tenth of them warms up; a kill costs a fifth of them, at most 50."""
    return {
        "warmup_steps": steps // 10,
        "logging_steps": max(1, min(10, steps // 20)),
        "save_steps": max(1, min(50, steps // 5)),
    }


def _write(path: Path, comments: list[str], values: dict[str, Any]) -> None:
    head = "".join(f"# {line}\n" for line in comments)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=10**6)
    files.write_text(path, head + text)
