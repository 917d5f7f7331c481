"""What the fuzzed readers are given: files near to what they want, drawn by hypothesis."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
from fuzz_tally import Tally
from fuzz_values import as_json, as_lines, reshaped, spoiled

TEXT = st.text(st.characters(), max_size=40)  # surrogates, control characters and all
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(10**18, 10**400) | st.floats() | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
Read = Callable[[], int]  # returns how many rows were dropped and counted
Reader = Callable[["Input", Path], tuple[str, Read]]  # what the input is, and what reads it
READERS: dict[str, Reader] = {}


def reader(name: str) -> Callable[[Reader], Reader]:
    """Registers a reader under a name."""
    return lambda made: READERS.setdefault(name, made)


class Input:
    """What hypothesis draws from, in terms of shapes and files."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.rng: random.Random = data.draw(st.randoms(use_true_random=True))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def near(self, value: Any) -> Any:
        """A value, or one almost like it."""
        return reshaped(self.rng, value, lambda: self.draw(VALUES)) if self.chance(0.7) else value

    def file(self, path: Path, content: bytes) -> str:
        """Write content that may be spoiled; returns what was written, for messages."""
        content = spoiled(self.rng, content) if self.chance(0.25) else content
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"{path.name} {content!r:.600}"

    def json(self, path: Path, value: Any) -> str:
        return self.file(path, as_json(self.rng, self.near(value)))

    def lines(self, path: Path, rows: list[Any]) -> str:
        return self.file(path, as_lines(self.rng, self.near(rows)))


def drive(reader: Reader, tally: Tally, folder: Path, examples: int, seed: int) -> None:
    """Give a reader so many inputs, each in an empty folder."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples, database=None, deadline=None, phases=[hypothesis.Phase.generate],
        suppress_health_check=[*hypothesis.HealthCheck],
    )  # fmt: skip
    @hypothesis.given(st.data())
    def run(data: st.DataObject) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        what, read = reader(Input(data), folder)
        tally.attempt(what, read)

    run()


def nothing(done: object) -> int:
    """For readers that drop nothing."""
    return 0
