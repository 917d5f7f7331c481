"""What a person sees while a run goes on: one line per stage, and a progress bar while it works.

Everything else that a stage prints goes to its log. The bar is drawn by the stage's parent process
from small files that the workers keep up to date, so any number of workers share one bar.
"""

import json
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from dice.errors import BadInput, StageFailed

console = Console(highlight=False, soft_wrap=True)
MARKS = {"+": "[green]✓[/]", "=": "[dim]·[/]", "!": "[yellow]![/]", " ": " "}


def say(text: str, mark: str = "=") -> None:
    """One line of a run's story. Marks: + done, = nothing to do, ! worth a look, or none."""
    console.print(f"  {MARKS[mark]}", end=" ")
    console.print(text, markup=False)


def run(main: Callable[[], object]) -> None:
    """Run a program: bad input and failed stages end it with one message and their status.

    SIGTERM and Ctrl-C unwind it, so that workers are ended and temporary files removed.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal without ✓ gets a ?
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        main()
    except (BadInput, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


class Bar:
    """A progress bar that `poll` keeps up to date; nothing where the output is not a terminal."""

    def __init__(self, label: str, unit: str, poll: Callable[[], tuple[int, int]]) -> None:
        self.unit, self.poll = unit, poll
        self.progress = Progress(
            TextColumn("    {task.description:<9}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.progress.add_task(label, total=None, state="starting")
        self.first: tuple[float, int] | None = None

    def __enter__(self) -> "Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def update(self) -> None:
        done, total = self.poll()
        if not total:
            return
        now = time.monotonic()
        state = f"{done:,} of {total:,} {self.unit}"
        if self.first is None and done:
            self.first = (now, done)
        elif self.first and done > self.first[1]:
            rate = (done - self.first[1]) / (now - self.first[0])
            left = timedelta(seconds=round((total - done) / rate))
            state += f" · {rate:,.1f}/s · {left} left"
        self.progress.update(self.task, completed=done, total=total, state=state)


class Counter:
    """A worker's side of the bar: what it has done of its share, in a file that the parent reads."""

    def __init__(self, path: Path) -> None:
        self.path, self.done, self.total, self.written = path, 0, 0, 0.0
        path.parent.mkdir(parents=True, exist_ok=True)

    def expect(self, count: int) -> None:
        """So much more is to be done."""
        self.total += count
        self._write()

    def add(self, count: int) -> None:
        """So much more is done."""
        self.done += count
        if self.done >= self.total or time.monotonic() - self.written > 0.5:
            self._write()

    def _write(self) -> None:
        self.written = time.monotonic()
        self.path.write_text(json.dumps([self.done, self.total]))


def read_counters(folder: Path) -> tuple[int, int]:
    """(done, total) over all workers."""
    done = total = 0
    for path in folder.glob("*.json"):
        try:
            part = json.loads(path.read_text())
        except ValueError:  # being written at this moment
            continue
        done, total = done + part[0], total + part[1]
    return done, total
