"""A benchmark's files: from the Hub or from this machine, and whether they are what they should be."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dice.data import readers
from dice.errors import BadInput, first_line
from dice.models import hub

OWN_PROMPTS = "the judge's prompts are DICE's own, not the benchmark's"
PROMPTS = Path(__file__).with_name("judge_prompts")  # where those are, in the benchmarks' formats
KINDS = {str: "a text", list: "a list"}  # of a column, in messages
UNCOMPARED = (
    "the questions are those of --questions: their number and columns were checked, their texts were not "
    "compared with the benchmark's"
)


@dataclass(frozen=True)
class Question:
    """One question: the user's turns as they stand in the benchmark's file, letter by letter."""

    id: str
    category: str
    turns: tuple[str, ...]
    row: dict[str, Any] = field(repr=False)  # the file's


def digest(questions: Iterable[Question]) -> str:
    """sha256 of questions in their order, each a line of JSON: [id, turn, ...]."""
    lines = [json.dumps([question.id, *question.turns]) for question in questions]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Decoding:
    """How answers are sampled; temperature 0 takes the most probable token."""

    temperature: float
    top_p: float
    max_new_tokens: int
    by_category: dict[str, float] = field(default_factory=dict)  # temperatures that differ

    def of(self, category: str) -> float:
        """The temperature for a category."""
        return self.by_category.get(category, self.temperature)


@dataclass(frozen=True)
class HubFile:
    """A file on the Hugging Face Hub."""

    repo: str
    path: str
    kind: str = "dataset"


def local(given: str, option: str) -> Path:
    """A file of one's own. Raises BadInput, naming the option, where there is none."""
    if not Path(given).is_file():
        raise BadInput(f"--{option}: there is no file {given}")
    return Path(given)


def fetch(given: str | None, source: HubFile, option: str) -> Path:
    """A file of one's own, or the Hub's (from its cache where it is there).

    Raises BadInput, naming the option that takes a file, where it can't be had.
    """
    if given:
        return local(given, option)
    from huggingface_hub import hf_hub_download

    hub.settle()
    try:
        return Path(hf_hub_download(source.repo, source.path, repo_type=source.kind))
    except Exception as error:  # offline, moved, gated: whatever the Hub comes up with
        reason = first_line(error)
        raise BadInput(
            f"{source.repo}/{source.path} can't be had from the Hub ({reason:.200}); give a copy by "
            f"--{option}=FILE"
        ) from None


def read_rows(path: Path, columns: dict[str, type], hint: str = "") -> list[tuple[str, dict[str, Any]]]:
    """(where, row) of a JSON array or of JSON Lines whose rows have these columns.

    Raises BadInput, naming file and line, for a row that lacks one; `hint` ends the message.
    """
    found = []
    for where, row in readers.READERS["json"](path):
        for name, kind in columns.items():
            if name not in row or not isinstance(row[name], kind):
                wanted, have = KINDS.get(kind, "a value"), ", ".join(row) or "nothing"
                raise BadInput(f"{where}: no column {name!r} with {wanted}; the row has: {have}{hint}")
        found.append((where, row))
    return found


def check_count(path: Path, count: int, versions: dict[int, str], title: str) -> str:
    """The version of a benchmark that has so many questions. Raises BadInput where none has."""
    if count not in versions:
        known = " or ".join(f"{size} ({name or 'the one version'})" for size, name in versions.items())
        hint = f" (a file with fewer goes with --first={count})" if 0 < count < min(versions) else ""
        raise BadInput(f"{path}: {count:,} questions; {title} has {known}{hint}")
    return versions[count]


def check_distinct(path: Path, ids: Iterable[str]) -> None:
    """Raises BadInput where two questions have the same name."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise BadInput(f"{path}: question {name!r} comes twice")
        seen.add(name)


def check_filled(path: str, what: str, filled: str, marks: Sequence[str]) -> None:
    """Raises BadInput where a judge's prompt, filled in with marks, leaves one of them out."""
    for mark in marks:
        if mark not in filled:
            raise BadInput(f"--judge_prompts: {path}: {what} has no place for {mark.strip('<>')}")
