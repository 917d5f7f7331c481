"""The progress bar of a stage, and the small files in which its workers count what they have done."""

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, Progress, TextColumn

from dice.launch import disk_errors
from dice.launch.console import console
from dice.recipe.paths import ROOT

PREPARING = ROOT / "data" / ".preparing.json"  # how far a `prepare` is: a checkout has one at a time at work
IN_PREPARATION = "DICE_PREPARING"  # the run that it prepares, in the environment of what it starts

WIDE = 80  # columns of a terminal that has room for a bar: the text beside it takes up to 55
BESIDE = 14 if console.width < WIDE else 24  # columns of what stands before that text


class Tally(NamedTuple):
    """How far some work is."""

    done: int
    total: int
    tokens: int = 0  # sampled so far, where that is what the work consists of


class Bar:
    """A progress bar that `poll` keeps up to date; nothing where the output is not a terminal.

    It shows what is done, how fast that goes (in tokens where `poll` counts them), and the time left.
    """

    def __init__(self, label: str, unit: str, poll: Callable[[], Tally | tuple[int, int]]) -> None:
        self.unit, self.poll = unit, poll
        self.progress = Progress(
            TextColumn("    {task.description:<9}"),
            *([BarColumn(bar_width=min(32, console.width - 70))] if console.width >= WIDE else []),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(label, total=None, state="starting")
        self.first: tuple[float, Tally] | None = None  # rates count from here: loading models is not work

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self) -> None:
        tally = Tally(*self.poll())
        if not tally.total:
            return
        state = self.describe(tally, time.monotonic())
        self.progress.update(self.task, completed=tally.done, total=tally.total, state=state)

    def describe(self, now: Tally, seconds: float) -> str:
        """What stands beside the bar; `seconds` is the time by a clock that never goes back."""
        state = f"{now.done:,} of {now.total:,} {self.unit}"
        if self.first is None and now.done:
            self.first = (seconds, now)
        if self.first is None or now.done == self.first[1].done:
            return state
        begun, before = self.first
        rate = (now.done - before.done) / (seconds - begun)
        speed = f"{rate:,.1f}/s"
        if now.tokens:
            speed = f"{(now.tokens - before.tokens) / (seconds - begun):,.0f} tokens/s"
        left = timedelta(seconds=round((now.total - now.done) / rate))
        parts = [state, speed, f"{left} left"]
        while len(parts) > 1 and len(" · ".join(parts)) > console.width - BESIDE:
            parts.pop(1)
        return " · ".join(parts)


def told_of(poll: Callable[[], Tally | tuple[int, int]], unit: str, log: Path) -> Callable[[], Tally]:
    """`poll`; in a recipe's `prepare` it also writes what it counts, for `status`, if that has changed."""
    before = Tally(0, 0)

    def told() -> Tally:
        nonlocal before
        tally, run = Tally(*poll()), os.environ.get(IN_PREPARATION)
        if run and tally != before:
            record = {"run": run, "log": str(log), "unit": unit, "done": tally.done, "total": tally.total}
            with contextlib.suppress(OSError):  # a checkout that is not the user's: no reason to fail
                PREPARING.write_text(json.dumps(record))
            before = tally
        return tally

    return told


class Counter:
    """A worker's side of the bar: what it has done of its share, in a file that the parent reads."""

    def __init__(self, path: Path) -> None:
        self.path, self.done, self.total, self.tokens, self.written = path, 0, 0, 0, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)

    def expect(self, count: int) -> None:
        """So much more is to be done."""
        self.total += count
        self.write()

    def add(self, count: int, tokens: int = 0) -> None:
        """So much more is done, and so many tokens sampled."""
        self.done, self.tokens = self.done + count, self.tokens + tokens
        if self.done == self.total or time.monotonic() - self.written > 0.5:
            self.write()

    def write(self) -> None:
        """Tell the parent now. It is told twice a second, and when all that was expected is done."""
        self.written = time.monotonic()
        with disk_errors.naming(self.path):
            self.path.write_text(json.dumps([self.done, self.total, self.tokens]))


def read_counters(folder: Path) -> Tally:
    """The sum over all workers."""
    parts = []
    for path in folder.glob("*.json"):
        try:
            parts.append(json.loads(path.read_text()))
        except (ValueError, OSError):  # being written, or removed, at this moment
            continue
    return Tally(*map(sum, zip(*parts, strict=True))) if parts else Tally(0, 0)
