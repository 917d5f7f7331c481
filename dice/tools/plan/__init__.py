"""`python -m dice plan RECIPE`: what would run, what it takes and how long, without running anything."""

import contextlib
import math
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from dice.errors import BadInput, counted
from dice.inference.load import engine_named
from dice.launch import hardware
from dice.launch.console import console, fitted, say, shown
from dice.launch.hardware import GIB, GIVEN, Device, Machine
from dice.models import hub
from dice.models.checkpoint import NotHere, downloaded
from dice.recipe.keys import Recipe
from dice.recipe.load import load_recipe, origin
from dice.recipe.paths import resolve
from dice.run.run import Run
from dice.stages.checks import ROLES, Place, after_preparation, before_preparation, stand_in, to_be_made
from dice.stages.prepare import load
from dice.tools.plan.budget import Budget, budget
from dice.tools.plan.estimate import BANDWIDTH, SCORING, TRAINING, Cost
from dice.tools.plan.forecast import (
    Row,
    download_bytes,
    existing,
    gigabytes,
    memory_advice,
    rows_of,
    with_measured_lengths,
)
from dice.tools.plan.sizes import Size
from dice.tools.plan.workload import GUESSED


def show_plan(name: str, overrides: Sequence[str]) -> None:
    """Print the plan of a recipe with overrides, for the GPUs here or those of `gpus=8xA100-80G`.

    Raises BadInput for what `start` would refuse as well, and for GPUs that do not exist.
    """
    recipe, machine, given = _read(name, overrides)
    hub.settle()
    here = not machine.origin.startswith(GIVEN)
    later = to_be_made(recipe, lambda key: origin(name, given, key))
    _refuse(recipe, lambda key: origin(name, given, key), here, later)
    run = Run(recipe.run_dir, recipe)
    planned = with_measured_lengths(budget(stand_in(recipe, later), machine), run)
    rows = list(rows_of(planned, run, here))
    count = counted(recipe.rounds, "round")
    console.print(f"\nplan of {name}: {count} in {shown(run.path)}; nothing is run\n")
    _show_subject(planned, recipe.policy)
    _show_stages(planned, rows)
    _show_disk(planned)
    _show_advice(planned, shlex.join([name, *given]))
    _show_how(planned, rows)


def _read(name: str, overrides: Sequence[str]) -> tuple[Recipe, Machine, list[str]]:
    """The recipe, the machine, and the overrides that are the recipe's.

    Raises BadInput for given GPUs that engines can't share out.
    """
    given = [word for word in overrides if not str(word).startswith("gpus=")]
    asked = [str(word).removeprefix("gpus=") for word in overrides if str(word).startswith("gpus=")]
    if not asked:
        return load(name, given), hardware.find(), given
    recipe = load_recipe(name, given)
    if recipe.generate.engine == "auto":  # what setup.sh installs where there are GPUs
        recipe = recipe.sampling(engine="vllm")
    machine, each = hardware.parse_gpus(asked[-1]), recipe.generate.tensor_parallel
    if machine.count % each:
        raise BadInput(f"gpus is {asked[-1]!r}: generate.tensor_parallel, {each}, must divide their number")
    return recipe, machine, given


def _refuse(recipe: Recipe, place: Place, here: bool, later: dict[str, str]) -> None:
    """Raises BadInput for what `start` would refuse; what is not on this machine yet is passed over."""
    checks = [*before_preparation(recipe, place), *after_preparation(recipe, place)]
    for check in checks:
        elsewhere = not here and check.topic in ("batch", "engine", "engines", "packages")
        if check.topic not in later and not elsewhere:
            with contextlib.suppress(NotHere):
                check.examine()


def _show_subject(planned: Budget, policy: str) -> None:
    """The machine, the models, the data. The plan may be of another policy, which stands in for `policy`."""
    recipe, work = planned.recipe, planned.work
    lines = {"machine": str(planned.machine)}
    for role in ROLES:
        lines[role] = f"{getattr(recipe, role)}: {_model(recipe, role, getattr(planned, role))}"
    if policy != recipe.policy:
        lines["policy"] = f"{policy}: `prepare` makes it; until then the reference stands in for it"
    sets = zip(planned.works, recipe.prompt_sets, strict=False)  # a list may have sets for rounds to come
    lines["data"] = ", ".join(f"{counted(work.prompts, 'prompt')} ({name})" for work, name in sets)
    lines["data"] += " in each round" if recipe.prompts_per_round else ""
    if work.offline:
        lines["data"] += f", {counted(work.offline, 'replayed pair')} ({recipe.replay.dataset})"
    for key, text in lines.items():
        console.print(fitted(f"{key:<11}{text}", 0, 11))


def _model(recipe: Recipe, role: str, size: Size | None) -> str:
    if not engine_named(recipe.generate.engine).reads_models:
        return "not looked at: the fake engine needs no model"
    name = getattr(recipe, role)
    there = resolve(name).is_dir() or downloaded(name)
    where = "" if there else f"; not on this machine{_to_come(recipe, name, size)}"
    if size is None:
        return f"size unknown{where}"
    return f"{rounded(size.parameters)} parameters, from {size.source}{where}"


def _to_come(recipe: Recipe, name: str, size: Size | None) -> str:
    if recipe.prepare and resolve(name.partition("/")[0]).exists():
        return ": `prepare` makes it"
    return f": {gigabytes(download_bytes(name, size))} to download" if size else ": to be downloaded"


def rounded(number: int) -> str:
    """A number of parameters for people: 8.0 billion, 135.0 million, 4,096."""
    for scale, unit in ((1e9, "billion"), (1e6, "million")):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number:,}"


def _show_stages(planned: Budget, rows: list[Row]) -> None:
    device = planned.machine.device
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    memory = f"memory a {'GPU' if device.is_gpu else 'worker'}"
    for title in ("", "stage", "what", memory, "time", ""):
        justify = "right" if title in (memory, "time") else "left"
        table.add_column(title, justify=justify, no_wrap=title != "what")
    for index, row in enumerate(rows):
        first = index == 0 or rows[index - 1].round != row.round
        outside = "before" if row.stage in ("train_rm", "agree") else "evaluation"
        heading = (f"round {row.round}" if row.round else outside) if first else ""
        time = "" if row.done else hours(row.seconds)
        table.add_row(heading, row.stage, row.rows, _memory(row.cost, device), time, row.state)
    total = sum(row.seconds for row in rows)  # NaN where one of them can't be told
    spent = f"{total / 3600 * planned.machine.count:,.1f} GPU hours" if total > 0 and device.is_gpu else ""
    table.add_row("in all", "", spent, "", hours(total), "")
    console.print()
    console.print(table)
    console.print()


def _memory(cost: Cost | None, device: Device) -> str:
    if cost is None:
        return "?"
    if not cost.memory:
        return "-"
    text = f"{cost.memory / GIB:,.1f} of {device.memory / GIB:,.0f} GiB"
    return text if cost.fits(device) else f"! {text}"


def _show_disk(planned: Budget) -> None:
    need = planned.disk
    if need is None:
        console.print("disk       unknown: nothing tells the models' size")
        return
    models, texts, checkpoints = need
    parts = [f"{gigabytes(models)} of models", f"{gigabytes(texts)} of texts and scores"]
    parts += [f"{gigabytes(checkpoints)} of checkpoints while training"] if checkpoints else []
    free = shutil.disk_usage(existing(planned.recipe.run_dir)).free
    there = sum(need) - planned.disk_to_come
    there = f", of which {gigabytes(there)} are there" if there else ""
    lacking = "" if planned.disk_to_come < free else "; not enough"
    told = f"disk       {', '.join(parts)} under results{there}; {gigabytes(free)} are free{lacking}"
    console.print(fitted(told, 0, 11))


def _show_advice(planned: Budget, given: str) -> None:
    """What does not fit, and what would help; what would tell more. `given` names the recipe in a command."""
    reads_models = engine_named(planned.recipe.generate.engine).reads_models
    guessed = any(text.endswith(GUESSED) for work in planned.works for text in work.assumptions)
    if planned.recipe.prepare and (guessed or (planned.policy is None and reads_models)):
        command = f"python -m dice prepare {given}"
        missing = "not all data and models are here, so some of this is a guess"
        say(f"{missing}: run `{command}`, then plan again", mark="!")
    if text := memory_advice(planned):
        say(text, mark="!")


def _show_how(planned: Budget, rows: list[Row]) -> None:
    """How the figures came about: an estimate that doesn't say so is a promise."""
    device = planned.machine.device
    console.print("\nHow this was estimated (docs/plan-and-doctor.md has the formulas):")
    if assumed := dict.fromkeys(text for work in planned.works for text in work.assumptions):
        console.print(f"  assumed: {'; '.join(assumed)}")
    if worth := _worth_of_length(planned, rows):
        console.print(f"  {worth}")
    if measured := sorted({row.stage for row in rows if row.measured}):
        console.print(f"  as measured in this run: the time of {', '.join(measured)}")
    if math.isnan(device.flops):
        console.print(
            f"  {device.name} is not in the table of GPUs, so time can't be told; gpus= names one that is"
        )
        return
    kind, scale, unit, whose = (0, 1e12, "T", "GPU") if device.is_gpu else (1, 1e9, "G", "worker (assumed)")
    peak = f"{device.flops / scale:,.0f} {unit}FLOP/s and {device.bandwidth / 1e9:,.0f} GB/s"
    shares = {"training": TRAINING, "scoring": SCORING, "memory bandwidth": BANDWIDTH}
    used = ", ".join(f"{share[kind]:.0%} for {what}" for what, share in shares.items())
    console.print(f"  {peak} per {whose}, of which is used: {used}")
    console.print("  right within a factor of two or so; a stage that has run here is taken at its own time")


def _worth_of_length(planned: Budget, rows: list[Row]) -> str | None:
    """What the assumed length of responses is worth: the time in all if they are twice as long, or half.

    None where a round was sampled, and where no time can be told.
    """
    work, limit = planned.work, planned.recipe.generate.max_new_tokens
    if any("as sampled" in text for text in work.assumptions):
        return None
    tokens = min(limit, 2 * work.response_tokens) if work.response_tokens < limit else limit / 2
    other = replace(planned, works=[replace(work, response_tokens=tokens) for work in planned.works])
    open_rows = [row for row in rows if row.cost and not row.done and not row.measured]
    more = sum(other.at(row.round).cost(row.stage).seconds - row.cost.seconds for row in open_rows)
    total = sum(row.seconds for row in rows) + more
    return f"at {tokens:,.0f} tokens a response: {hours(total)} in all" if more and total > 0 else None


def hours(seconds: float) -> str:
    """A time for people: 40 s, 12 min, 3.4 h; ? where it can't be told."""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
