"""Prompts with their responses, and preference pairs, out of any file or registered data set.

A name of `dataset_info.json` is read as it says there. Of a file, each row's columns tell what it is:

    prompt      "prompt" (text or turns), "instruction", "messages" or "conversations"; what belongs to it
                has LLaMA-Factory's names: "input", "system", "history"
    response    "response", "responses" (a list), "output" or "completion"; without one, the
                conversation's last turn
    preference  "chosen" and "rejected": texts, turns, or whole conversations

A column that would change the prompt and can't be read ("tools", "images", ...) is refused by name.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dice.data import readers
from dice.data.dataset_info import FILE_TYPES, ROLE_CONTENT, Source, find_source
from dice.data.prompts_and_preferences import (
    Dropped,
    messages_of,
    preferences_of,
    prompt_and_answers,
    prompts_of,
    read_preferences,
    read_prompts,
    text_of,
    why,
)
from dice.errors import BadInput
from dice.run.rows import Message, Preference, Prompt

RESPONSES = ("response", "responses", "output", "completion")
PROMPTS = ("messages", "conversations", "instruction", "prompt")
BESIDE_TEXT = {"input": "query", "history": "history"}  # of a prompt that is a text: name -> role
UNSUPPORTED = ("tools", "images", "videos", "audios")  # a prompt here is text alone


class NoColumn(BadInput):
    """A row without a column that has to be there; it may be there by another name."""


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
    source = _source(path) if path else find_source(dataset_dir, name)
    found: list[Answered] = []
    dropped: Counter[str] = Counter()
    for line, row in readers.read(source):
        try:
            told = _told(source, row, line) if path else source
            found.append(Answered(row, *_prompt_and_responses(told, row, line)))
        except Dropped as reason:
            dropped[str(reason)] += 1
    if not found:
        raise BadInput(f"{name}: no row with a prompt and a response{why(dropped)}")
    return found, dropped


def read_pairs(name: str, dataset_dir: str) -> tuple[list[Preference], Counter[str]]:
    """The preference pairs of a file or data set, and the rows dropped by reason.

    Raises BadInput, naming file and line, where it can't be read or is no preference set.
    """
    path = _file(name)
    if path is None:
        return read_preferences(dataset_dir, name)
    source = _source(path)
    return preferences_of(source, partial(_told_of_pair, source))


def read_asked(name: str, dataset_dir: str) -> tuple[list[Prompt], Counter[str]]:
    """The distinct prompts of a file or data set, whether or not they have answers, and the rows dropped.

    Raises BadInput, naming file and line, where it can't be read or has no prompt.
    """
    path = _file(name)
    if path is None:
        return read_prompts(dataset_dir, name)
    source = _source(path)
    return prompts_of(source, partial(_told, source))


def _file(name: str) -> Path | None:
    path = Path(name)
    if path.is_file():
        return path.absolute()
    if path.suffix in FILE_TYPES:
        raise BadInput(f"{name}: there is no such file")
    return None


def _source(path: Path) -> Source:
    """A file as if it were registered, but for its columns."""
    if path.suffix not in FILE_TYPES:
        raise BadInput(f"{path}: not a file of data; it must be a {', '.join(FILE_TYPES)} file")
    return Source(path.stem, path, {"file_name": path.name})


def _told_of_pair(source: Source, row: dict[str, Any], line: str) -> Source:
    for name in ("chosen", "rejected"):
        if row.get(name) is None:
            raise NoColumn(
                f"{line}: no column {name!r}; a preference set has chosen and rejected, this row has: "
                f"{', '.join(row) or 'nothing'}"
            )
    return _told(source, row, line)


def _told(source: Source, row: dict[str, Any], line: str) -> Source:
    """A file as if it were registered with the columns of this row.

    Raises BadInput for a row without a prompt, and for a column that would change the prompt and can't be
    read; Dropped for a row whose columns tell of different prompts.
    """
    named = [name for name in PROMPTS if row.get(name) is not None]
    named.sort(key=lambda name: not isinstance(row[name], list))  # turns have more of a prompt than a text
    if not named and isinstance(row.get("chosen"), list):
        named = ["chosen"]  # the turns before the answer
    if not named:
        raise NoColumn(
            f"{line}: no prompt in sight; a row needs one of the columns prompt, instruction, messages, "
            f"conversations, this one has: {', '.join(row) or 'nothing'}"
        )
    told, *others = (_told_by(source, row, line, name) for name in named)
    if others or row.get("system"):
        messages = messages_of(told, row, line)
        for name, other in zip(named[1:], others, strict=True):
            if messages_of(other, row, line)[-1] != messages[-1]:
                raise Dropped(f"rows with another prompt in {name!r} than in {named[0]!r}")
        if row.get("system") and messages[0]["content"] != row["system"]:
            raise Dropped(f"rows with another system prompt in 'system' than in {named[0]!r}")
    return told


def _told_by(source: Source, row: dict[str, Any], line: str, prompt: str) -> Source:
    """A file as if it were registered with the columns of this row, the prompt being that of one of them."""
    in_turns = isinstance(row[prompt], list)
    for name in (*UNSUPPORTED, *(BESIDE_TEXT if in_turns else ())):
        if row.get(name):
            raise BadInput(f"{line}: column {name!r} changes the prompt, and is not read beside {prompt!r}")
    columns = {role: name for name, role in BESIDE_TEXT.items() if row.get(name)}
    columns |= {name: name for name in ("chosen", "rejected") if name in row}
    columns |= {"system": "system"} if row.get("system") else {}
    if response := next((name for name in RESPONSES if row.get(name) is not None), None):
        columns["response"] = response
    entry = {
        "formatting": "sharegpt" if in_turns else "alpaca",
        "columns": {"messages" if in_turns else "prompt": prompt, **columns},
        "tags": ROLE_CONTENT if _has_roles(row.get(name) for name in (prompt, "chosen", response)) else {},
    }
    return replace(source, entry={**source.entry, **entry})


def _has_roles(values: Iterable[Any]) -> bool:
    """Whether the first turn in a row's columns is {role, content}; otherwise it is {from, value}."""
    for value in values:
        turn = value[0] if isinstance(value, list) and value else value
        if isinstance(turn, dict):
            return "role" in turn
    return False


def _prompt_and_responses(source: Source, row: dict[str, Any], line: str) -> tuple[list[Message], list[str]]:
    column = source.columns.get("response")
    if column is None:
        if not source.is_sharegpt:
            raise BadInput(f"{line}: no response; a row needs one of the columns {', '.join(RESPONSES)}")
        column = source.columns["messages"]  # its last turn
    elif isinstance(row.get(column), list) and all(isinstance(text, str) for text in row[column]):
        if not row[column]:
            raise Dropped("rows without a response")
        texts = [text_of(text, line, "a response") for text in row[column]]
        return messages_of(source, row, line), texts
    given = replace(source, entry={**source.entry, "columns": {**source.columns, "response": column}})
    return prompt_and_answers(given, row, line, ["response"])
