"""What a person sees while a run goes on: one line per stage, and a progress bar while it works.

Everything else that a stage prints goes to its log. The bar is drawn by the stage's parent process
from small files that the workers keep up to date, so any number of workers share one bar.
"""

import contextlib
import errno
import math
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from dice.errors import BadInput, GateClosed, StageFailed, printable
from dice.launch import devices, disk_errors
from dice.recipe.paths import ROOT

# Nothing that is shown is taken for rich's markup, [red] say: it may come from a model or a data file.
# Lines and tables are broken, at words, on a terminal only. Without a color system rich leaves out bold and
# dim, too.
console = Console(
    highlight=False,
    markup=False,
    soft_wrap=not sys.stdout.isatty(),
    width=None if sys.stdout.isatty() else 200,
    color_system=None if os.environ.get("NO_COLOR") else "auto",
)
HELD = (signal.SIGINT, signal.SIGTERM)
# What a path of a user's may meet with: it is too long, or has a file where a folder should be, say.
MISPLACED = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
LABEL = 10  # columns of a stage's name
MARKS = {"+": "[green]✓[/]", "=": "[dim]·[/]", "!": "[yellow]![/]", " ": " "}


def say(text: str, mark: str = "=") -> None:
    """One line of a run's story. Marks: + done, = nothing to do, ! worth a look, or none."""
    console.print(f"  {MARKS[mark]}", end=" ", markup=True)
    console.print(fitted(printable(text), len("  x "), len("  x ") + LABEL))


def fitted(text: str, begins: int, later: int) -> str:
    """A text that begins in column `begins`, on a terminal broken at words, later lines in column `later`."""
    if not console.is_terminal or begins + len(text) <= console.width:
        return text
    first, rest = " " * begins, " " * min(later, console.width // 3)
    lines = textwrap.wrap(
        text, console.width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )
    return "\n".join(lines)[begins:]


def with_error(value: float, error: float | None, form: str = ".1%") -> str:
    """A figure and its standard error, "25.8% ± 1.4%", which one of a single prompt does not have."""
    return f"{value:{form}}" + (f" ± {error:{form}}" if error is not None and math.isfinite(error) else "")


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a program the way Ctrl-C does."""

    signal = signal.SIGTERM


def run(main: Callable[[], object]) -> None:
    """Run a program: bad input, failed stages, a full disk and a path that can't be end it with one message.

    SIGTERM and Ctrl-C unwind it, so that workers are ended and temporary files removed. It is no other
    launcher's worker: libraries that it loads must not wait for the others.
    """
    devices.forget_launcher(os.environ)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal without ✓ gets a ?
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        main()
        sys.stdout.flush()  # now, not as Python ends, when nothing can be said any more
    except (BadInput, StageFailed, GateClosed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.status)
    except BrokenPipeError:  # `dice ... | head -1`, or a loop that was killed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print("stopped: nobody reads its output any more", file=sys.stderr)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.errno in MISPLACED:
            _refuse(error.filename, error.strerror.lower())
        if not (line := disk_errors.refusal(error)):
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


def shown(path: Path) -> str:
    """A path relative to the repository where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
