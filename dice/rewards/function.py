"""Rewards of a function of the user's: whether an answer is right, say, which a program can verify."""

import contextlib
import importlib.util
import inspect
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from dice.errors import BadInput, first_line
from dice.launch.progress import Counter
from dice.recipe.paths import resolve
from dice.rewards.source import Scoring, Usable
from dice.run.run import Run

AGAIN = 1.0  # seconds between alarms: a bare `except:` may have swallowed the first


class Source(Scoring):
    """What the function gives to a prompt, its last turn, and a response."""

    def __init__(self, run: Run, t: int, counter: Counter, per_token: bool = False) -> None:
        super().__init__(run, t, counter, per_token)
        self.function = load_function("score.reward", self.recipe.score.reward)

    def rewards(self, shard: Path, rows: list[Usable]) -> list[float]:
        texts = [(row.messages[-1]["content"], row.response) for row in rows]
        score = self.recipe.score
        found = call(self.function, score.reward, texts, score.reward_timeout)
        self.counter.add(len(rows))
        return found


def load_function(key: str, spec: str) -> Callable[..., Any]:
    """The function of `path/to/file.py:function`, which `key` names. Raises BadInput where there is none."""
    path, _, name = spec.rpartition(":")
    file = resolve(path)
    if not file.is_file():
        raise BadInput(f"{key} {spec!r}: {file} does not exist; give path/to/file.py:function")
    module_spec = importlib.util.spec_from_file_location(f"dice_user_{file.stem}", file)
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module_spec.name] = module  # where a dataclass looks for its module
    if (folder := str(file.parent)) not in sys.path:
        sys.path.append(folder)  # for what the file imports from beside it; behind the installed packages
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file may raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise BadInput(f"{key} {spec!r}: {file} can't be run ({reason})") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise BadInput(f"{key} {spec!r}: {file} has no function {name!r}")
    with contextlib.suppress(ValueError):  # a builtin's parameters may not be known
        try:
            inspect.signature(function).bind("", "")
        except TypeError as error:
            raise BadInput(
                f"{key} {spec!r}: it is called with a prompt and a response, but {error}"
            ) from None
    return function


def call(
    function: Callable[..., Any], name: str, texts: Sequence[tuple[str, str]], seconds: float
) -> list[float]:
    """The rewards of (prompt, response) texts; `name` is the function's in messages.

    A function with the parameters `prompts` and `responses` gets all texts at once, any other one at a time.
    Raises BadInput where it raises, needs more than `seconds` for a call, or gives anything but a finite
    number for each response.
    """
    takes_all = _parameters(function)[:2] == ["prompts", "responses"]
    found = []
    for batch in filter(None, [texts] if takes_all else ([pair] for pair in texts)):
        what = f"reward function {name} on {batch[0][0]!r:.60}"
        try:
            with _time_limit(seconds):
                if takes_all:
                    given = function(*([*side] for side in zip(*batch, strict=True)))
                    if isinstance(given, str | bytes | Mapping):
                        raise TypeError(f"gives a {type(given).__name__}, not a list of numbers")
                else:
                    given = [function(*batch[0])]
                rewards = [float(value) for value in given]
        except _TooLong:
            reason = f"no answer in {seconds:g} seconds (score.reward_timeout)"
            raise BadInput(f"{what}: {reason}") from None
        except (Exception, SystemExit) as error:  # whatever the user's code may raise
            raise BadInput(f"{what}: {type(error).__name__}: {first_line(error)}") from error
        if len(rewards) != len(batch):
            raise BadInput(f"{what}: {len(rewards):,} values for {len(batch):,} responses")
        if not all(map(math.isfinite, rewards)):
            raise BadInput(f"{what}: gives nan or inf; a reward must be a finite number")
        found += rewards
    return found


def _parameters(function: Callable[..., Any]) -> list[str]:
    """The names of its parameters, as far as they are known: a builtin's may not be."""
    try:
        return [*inspect.signature(function).parameters]
    except (TypeError, ValueError):
        return []


class _TooLong(BaseException):
    """No Exception: a function that catches all of these must not go on."""


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raises _TooLong inside of what takes longer, wherever it is in Python code."""

    def stop(*_: object) -> NoReturn:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
