"""Prompts with their responses, and preference pairs, out of any file or registered data set.

A name of `dataset_info.json` is read as it says there. Of a file its columns tell what it is:

    prompt      "prompt" (text or turns), "instruction" (and "input"), "messages" or "conversations"
    response    "response", "responses" (a list), "output" or "completion"; without one, the
                conversation's last turn
    preference  "chosen" and "rejected": texts, turns, or whole conversations
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dice.data import readers
from dice.data.dataset_info import FILE_TYPES, ROLE_CONTENT, Source, find_source
from dice.data.prompts_and_preferences import (
    Dropped,
    answer_of,
    messages_of,
    preferences_of,
    read_preferences,
    text_of,
)
from dice.errors import BadInput
from dice.run.rows import Message, Preference

RESPONSES = ("response", "responses", "output", "completion")


@dataclass(frozen=True)
class Answered:
    """A row of the input: its prompt and the responses to it."""

    row: dict[str, Any]
    messages: list[Message]
    responses: list[str]


def read_answers(name: str, dataset_dir: str) -> tuple[list[Answered], Counter[str]]:
    """The rows of a file or data set that have responses, and the others counted by reason.

    Raises BadInput, naming file and line, where it can't be read or has no response.
    """
    path = _file(name)
    source = _guess(path) if path else find_source(dataset_dir, name)
    found: list[Answered] = []
    dropped: Counter[str] = Counter()
    for line, row in readers.read(source):
        try:
            found.append(Answered(row, messages_of(source, row, line), _responses(source, row, line)))
        except Dropped as reason:
            dropped[str(reason)] += 1
    if not found:
        raise BadInput(f"{name}: no row with a prompt and a response ({dict(dropped) or 'it has no rows'})")
    return found, dropped


def read_pairs(name: str, dataset_dir: str) -> tuple[list[Preference], Counter[str]]:
    """The preference pairs of a file or data set, and the rows dropped by reason.

    Raises BadInput, naming file and line, where it can't be read or is no preference set.
    """
    path = _file(name)
    if path is None:
        return read_preferences(dataset_dir, name)
    source = _guess(path)
    for role in ("chosen", "rejected"):
        if role not in source.columns:
            raise BadInput(f"{path}: no column {role!r}; a preference set has chosen and rejected")
    return preferences_of(source)


def _file(name: str) -> Path | None:
    path = Path(name)
    if path.is_file():
        return path.absolute()
    if path.suffix in FILE_TYPES:
        raise BadInput(f"{name}: there is no such file")
    return None


def _guess(path: Path) -> Source:
    """A file as if it were registered, its columns told from its first row."""
    if path.suffix not in FILE_TYPES:
        raise BadInput(f"{path}: not a file of data; it must be a {', '.join(FILE_TYPES)} file")
    where, row = next(readers.read(Source(path.stem, path, {"file_name": path.name})), (str(path), {}))
    entry = _entry(row)
    if entry is None:
        raise BadInput(
            f"{where}: no prompt in sight; a row needs one of the columns prompt, instruction, messages, "
            f"conversations, this one has: {', '.join(row) or 'nothing'}"
        )
    entry["columns"] |= {name: name for name in ("chosen", "rejected") if name in row}
    if response := next((name for name in RESPONSES if name in row), None):
        entry["columns"]["response"] = response
    return Source(path.stem, path, {"file_name": path.name, **entry})


def _entry(row: dict[str, Any]) -> dict[str, Any] | None:
    """What dataset_info.json would say of the prompt of a row like this one."""
    for name in ("messages", "conversations", "prompt", "chosen"):
        if isinstance(turns := row.get(name), list) and (name != "chosen" or "prompt" not in row):
            plain = turns and isinstance(turns[0], dict) and "role" in turns[0]
            tags = {"tags": ROLE_CONTENT} if plain else {}
            return {"formatting": "sharegpt", "columns": {"messages": name}, **tags}
    for name in ("instruction", "prompt"):
        if name in row:
            query = {"query": "input"} if "input" in row else {}
            return {"columns": {"prompt": name, **query}, "tags": ROLE_CONTENT}
    return None


def _responses(source: Source, row: dict[str, Any], line: str) -> list[str]:
    column = source.columns.get("response")
    if column is None:
        if not source.is_sharegpt:
            raise BadInput(f"{line}: no response; a row needs one of the columns {', '.join(RESPONSES)}")
        column = source.columns["messages"]  # its last turn
        turn = (row[column] or [{}])[-1]
        roles = source.tags["assistant_tag"], turn.get(source.tags["role_tag"])
        if roles[0] != roles[1]:
            raise Dropped("rows without a response")
    elif isinstance(row.get(column), list) and all(isinstance(text, str) for text in row[column]):
        if not row[column]:
            raise Dropped("rows without a response")
        return [text_of(text, line, "a response") for text in row[column]]
    given = replace(source, entry={**source.entry, "columns": {**source.columns, "response": column}})
    return [answer_of(given, row, line, "response")]
