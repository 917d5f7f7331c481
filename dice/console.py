"""What a person sees while a run goes on: one line per stage, and a progress bar while it works.

Everything else that a stage prints goes to its log. The bar is drawn by the stage's parent process
from small files that the workers keep up to date, so any number of workers share one bar.
"""

import contextlib
import errno
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, NoReturn

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from dice import disk
from dice.errors import BadInput, StageFailed, printable

# Nothing that is shown is taken for rich's markup, [red] say: it may come from a model or a data file.
console = Console(highlight=False, soft_wrap=True, markup=False)
HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last one: another node has failed
# What a path of a user's may meet with: it is too long, or has a file where a folder should be, say.
MISPLACED = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
MARKS = {"+": "[green]✓[/]", "=": "[dim]·[/]", "!": "[yellow]![/]", " ": " "}


def say(text: str, mark: str = "=") -> None:
    """One line of a run's story. Marks: + done, = nothing to do, ! worth a look, or none."""
    console.print(f"  {MARKS[mark]}", end=" ", markup=True)
    console.print(printable(text))


def with_error(value: float, error: float | None, form: str = ".1%") -> str:
    """A figure and its standard error, "25.8% ± 1.4%", which one of a single prompt does not have."""
    return f"{value:{form}}" + (f" ± {error:{form}}" if error is not None and math.isfinite(error) else "")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program the way Ctrl-C does."""

    signal = signal.SIGTERM


def run(main: Callable[[], object]) -> None:
    """Run a program: bad input, failed stages, a full disk and a path that can't be end it with one message.

    SIGTERM and Ctrl-C unwind it, so that workers are ended and temporary files removed.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal without ✓ gets a ?
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
    except (BadInput, StageFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except OSError as error:
        if error.errno in MISPLACED:
            _refuse(error.filename, error.strerror.lower())
        if not (line := disk.refusal(error)):
            raise
        print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(StageFailed.status)
    except UnicodeEncodeError as error:
        _refuse(error.object, f"can't be written as {error.encoding}, which a name must be ({error.reason})")
    except KeyboardInterrupt as stop:
        number = getattr(stop, "signal", signal.SIGINT)
        print(f"stopped by {number.name}: the same command goes on from here", file=sys.stderr)
        sys.exit(128 + number)


def _refuse(what: object, why: str) -> NoReturn:
    """End a program over what it was given."""
    error = BadInput(f"{what}: {why}")
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.status)


def _terminate(*_: object) -> None:
    raise Terminated


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM while a process is started; it has to let them through by itself.

    Python swallows what a handler raises while it forks, and the process would be nobody's.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
            BarColumn(bar_width=max(8, min(32, console.width - 70))),  # the text beside it takes up to 55
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
        return f"{state} · {speed} · {left} left"


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
        with disk.naming(self.path):
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
