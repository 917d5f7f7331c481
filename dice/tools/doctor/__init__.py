"""`python -m dice doctor RECIPE`: what would go wrong, found out in about a minute; nothing is changed.

The checks of `start` come first, then those that look at texts, models and the machine. Every one of
them is made, whatever the others found.
"""

import contextlib
import io
import shlex
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from dice.errors import BadInput, counted, first_line, printable
from dice.inference.load import engine_named
from dice.launch.console import console, shown
from dice.models import hub
from dice.recipe.keys import Recipe
from dice.recipe.load import origin
from dice.stages.checks import (
    ROLES,
    Check,
    Place,
    after_preparation,
    before_preparation,
    stand_in,
    to_be_made,
)
from dice.stages.data_checks import data_sets
from dice.stages.prepare import load
from dice.tools.benchmarks import evaluation
from dice.tools.benchmarks.task import Options
from dice.tools.doctor.benchmark import benchmark_checks
from dice.tools.doctor.findings import FAULT, FINE, OPEN, WARNING, Case, Finding, Findings, Look, of_check
from dice.tools.doctor.models import model_checks
from dice.tools.doctor.run import run_checks
from dice.tools.doctor.texts import text_checks
from dice.tools.plan.forecast import gigabytes
from dice.tools.plan.sizes import size_of

MARKS = {FAULT: "[red]✗[/]", WARNING: "[yellow]![/]", FINE: "[green]✓[/]", OPEN: "[dim]·[/]"}
INDENT = 4 + 18  # of a finding's text: mark and topic
WIDTH = 110


def examine(name: str, overrides: Sequence[str]) -> int:
    """Print every finding. Returns 0 where nothing is at fault, else 1.

    Raises BadInput, all findings printed, where `start` would refuse the recipe.
    """
    recipe, place = load(name, overrides), partial(origin, name, overrides)
    hub.settle()
    head = f"doctor of {name} ({shown(recipe.run_dir)}); nothing is changed"
    found = _told(head, findings(recipe, place))
    if to_be_made(recipe, place):
        command = shlex.join(["python", "-m", "dice", "prepare", name, *overrides])
        console.print(f"`{command}` makes what is not here yet; then ask again")
    if refused := [finding.what for finding in found if finding.refused]:
        raise BadInput(refused[0])
    return int(any(finding.level == FAULT for finding in found))


def examine_benchmark(name: str, overrides: Sequence[str], benchmark: str, options: Options) -> int:
    """Print what `evaluate --benchmark` would meet with in a run of the recipe. Returns 0 or 1, as `examine`.

    Raises BadInput for an unknown benchmark or option.
    """
    recipe = load(name, overrides)
    hub.settle()
    evaluation.check(benchmark, options)
    head = f"doctor of {benchmark} for {name}; nothing is generated"
    found = _told(head, _made(benchmark_checks(recipe, benchmark, options)))
    return int(any(finding.level == FAULT for finding in found))


def _told(head: str, findings: Findings) -> list[Finding]:
    """Print findings as they come, and their number by level at the end."""
    begun, found = time.monotonic(), []
    console.print(f"\n{head}\n")
    for finding in findings:
        found.append(finding)
        _show(finding)
    levels = Counter(finding.level for finding in found)
    told = [counted(levels[level], level) for level in (FAULT, WARNING)]
    told += [f"{levels[OPEN]} not known yet"] if levels[OPEN] else []
    console.print(f"\n{', '.join(told)}; {counted(len(found), 'check')} in {time.monotonic() - begun:.0f} s")
    return found


def findings(recipe: Recipe, place: Place) -> Findings:
    """Every finding on a recipe, as they come; one that an earlier one explains is left open."""
    told: list[str] = []
    for finding in _all(recipe, place):
        if finding.level == FAULT and any(finding.what in earlier for earlier in told):
            finding = Finding(OPEN, finding.topic, "not known before what is said above is mended")
        told.append(finding.what)
        yield finding


def _all(recipe: Recipe, place: Place) -> Findings:
    later = to_be_made(recipe, place)
    case = Case(stand_in(recipe, later), later)
    if case.is_stand_in:
        what = f"{recipe.policy} is still to be made: {recipe.reference} stands in for it in what follows"
        yield Finding(OPEN, "stand-in", what)
        del later["fit"]
    quick = [*before_preparation(recipe, place), *after_preparation(case.recipe, place)]
    yield from _made([(check.topic, partial(_quick, recipe, check, later)) for check in quick])
    real = engine_named(recipe.generate.engine).reads_models
    groups = [run_checks, text_checks, model_checks] if real else [run_checks]
    for group in groups:
        yield from _made(group(case))


def _made(looks: Iterable[Look]) -> Findings:
    """What some checks find; one that can't be made for what another one found does not end the others."""
    for topic, look in looks:
        try:
            with _quiet():
                found = list(look())
        except BadInput as error:
            found = [Finding(FAULT, topic, str(error), "correct it and ask again", refused=True)]
        except Exception as error:  # of a library, about something that nobody thought of
            what = f"could not be looked at: {type(error).__name__}: {first_line(error)}"
            found = [Finding(WARNING, topic, what, "mend what else is said here; if it stays, report it")]
        yield from found


def _quick(recipe: Recipe, check: Check, later: dict[str, str]) -> Findings:
    """What a check of `start` finds; of what may be on the Hub, which can't be asked, what is known."""

    def elsewhere(reason: str) -> str:
        if check.topic in data_sets(recipe):
            return f"on the Hub, not in its cache: {reason}"
        if check.topic not in ROLES:
            return "not known before both models are on this machine"
        name = getattr(recipe, check.topic)
        size = size_of(name)
        told = f"about {gigabytes(2 * size.parameters)} by {size.source}" if size else "its size is not known"
        return f"{name}: not on this machine; a run downloads it ({told}) if the Hub has it: {reason}"

    yield of_check(check, later, elsewhere)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _show(finding: Finding) -> None:
    lines = textwrap.wrap(printable(finding.what), WIDTH - INDENT) or [""]
    advice = textwrap.wrap(finding.advice, WIDTH - INDENT - 2) if finding.level in (FAULT, WARNING) else []
    console.print(f"  {MARKS[finding.level]} ", end="", markup=True)
    console.print(f"{finding.topic:<18}{lines[0]}")
    for line in lines[1:] + [f"{'→' if at == 0 else ' '} {text}" for at, text in enumerate(advice)]:
        console.print(f"{'':<{INDENT}}{line}")
