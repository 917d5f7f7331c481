"""Prompts and preferences out of `dataset_info.json`, read as LLaMA-Factory describes them.

Formats: alpaca and sharegpt, with renamed columns and tags; `dice/data/readers.py` reads the files. A row
that lacks a column which `dataset_info.json` names is an error; a row whose turns are out of order,
which LLaMA-Factory would skip with a warning, is dropped and counted.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from dice.data import readers
from dice.data.dataset_info import Source, find_source
from dice.errors import BadInput, spelled
from dice.run.rows import Message, Preference, Prompt, prompt_id

Told = Callable[[dict[str, Any], str], Source]  # of a row and where it stands


class Dropped(Exception):
    """A row that can't be used; the message is the reason it is counted under."""


def read_prompts(dataset_dir: str, name: str) -> tuple[list[Prompt], Counter[str]]:
    """The distinct prompts of a data set in file order, and the rows dropped by reason.

    Any set will do: of a preference set or an SFT set, the answers are ignored.
    Raises BadInput where the set can't be read or has no usable prompt.
    """
    return prompts_of(find_source(dataset_dir, name))


def prompts_of(source: Source, told: Told | None = None) -> tuple[list[Prompt], Counter[str]]:
    """The distinct prompts of a source, as `read_prompts` has them.

    `told` tells the columns of each row, where the source does not.
    """
    prompts: dict[str, Prompt] = {}
    dropped: Counter[str] = Counter()
    for line, row in readers.read(source):
        try:
            messages = messages_of(told(row, line) if told else source, row, line)
        except Dropped as reason:
            dropped[str(reason)] += 1
            continue
        prompt = Prompt(prompt_id(messages), messages)
        if prompt.prompt_id in prompts:
            dropped["duplicate prompts"] += 1
        else:
            prompts[prompt.prompt_id] = prompt
    if not prompts:
        raise BadInput(f"{source.place}: data set {source.name!r} has no usable prompt{why(dropped)}")
    return list(prompts.values()), dropped


def read_preferences(dataset_dir: str, name: str) -> tuple[list[Preference], Counter[str]]:
    """The preference pairs of a data set in file order, and the rows dropped by reason.

    Raises BadInput where the set can't be read, is no preference set, or has no usable pair.
    """
    source = find_source(dataset_dir, name)
    if not source.entry.get("ranking"):
        raise BadInput(f'{source.registry}: {name}: not a preference set; it needs "ranking": true')
    for role in ("chosen", "rejected"):
        if role not in source.columns:
            raise BadInput(f"{source.registry}: {name}: columns.{role} is missing")
    return preferences_of(source)


def preferences_of(source: Source, told: Told | None = None) -> tuple[list[Preference], Counter[str]]:
    """The preference pairs of a source whose columns name chosen and rejected answers.

    `told` tells the columns of each row, where the source does not.
    """
    pairs: list[Preference] = []
    dropped: Counter[str] = Counter()
    for line, row in readers.read(source):
        try:
            described = told(row, line) if told else source
            messages, (chosen, rejected) = prompt_and_answers(described, row, line, ("chosen", "rejected"))
            if chosen == rejected:
                raise Dropped("identical answers")
            if not (chosen.strip() and rejected.strip()):
                raise Dropped("empty answers")
        except Dropped as reason:
            dropped[str(reason)] += 1
            continue
        pairs.append(Preference(prompt_id(messages), messages, chosen, rejected))
    if not pairs:
        raise BadInput(f"{source.place}: data set {source.name!r} has no usable pair{why(dropped)}")
    return pairs, dropped


def why(dropped: Counter[str]) -> str:
    """Why no row is left, in brackets: the reasons with their counts."""
    reasons = [f"{count} {reason}" for reason, count in dropped.items()]
    return f" ({', '.join(reasons) or 'it has no rows'})"


def _column(source: Source, row: dict[str, Any], line: str, role: str) -> Any:
    name = source.columns[role]
    if name not in row:
        raise BadInput(
            f"{line}: no column {name!r}, which {source.registry} names as columns.{role} of "
            f"{source.name!r}; the row has: {', '.join(row) or 'nothing'}"
        )
    return row[name]


def text_of(value: Any, line: str, what: str) -> str:
    """A value that must be text. Raises BadInput where it is not, Dropped where it can't be encoded."""
    if not isinstance(value, str):
        raise BadInput(f"{line}: {what} is {spelled(value):.40}; it must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Dropped("rows with half a character (an unpaired surrogate)") from None
    return value


def prompt_and_answers(
    source: Source, row: dict[str, Any], line: str, roles: Sequence[str]
) -> tuple[list[Message], list[str]]:
    """The prompt of a row, and the answers to it that columns.`roles` name: texts, turns or conversations.

    The turns before the last one of a conversation must be the prompt; they may lack its system prompt, or
    have the history of a prompt that is given without it. Raises Dropped for other ones.
    """
    messages = messages_of(source, row, line)
    answers = [_answer(source, row, line, role) for role in roles]
    prompt = max([messages, *(before for before, _ in answers)], key=len)
    spoken = prompt[1:] if prompt[0]["role"] == "system" else prompt
    alike = all(before in ([], prompt, spoken) for before, _ in answers)
    if not alike or prompt[-len(messages) :] != messages:
        raise Dropped("rows with an answer to other turns than the prompt's")
    return prompt, [text for _, text in answers]


def messages_of(source: Source, row: dict[str, Any], line: str) -> list[Message]:
    """The prompt of a row: its turns up to the user's last one, system prompt first."""
    turns = _sharegpt(source, row, line) if source.is_sharegpt else _alpaca(source, row, line)
    if source.columns.get("system") and (not turns or turns[0]["role"] != "system"):
        system = text_of(_column(source, row, line, "system") or "", line, "the system prompt")
        turns = [Message(role="system", content=system), *turns]
    return _in_order(turns, answered=not source.entry.get("ranking"))


def _in_order(turns: list[Message], answered: bool = False) -> list[Message]:
    """Turns as a prompt; the assistant's last one, the answer where it is `answered`, is left out."""
    has_system = bool(turns) and turns[0]["role"] == "system"
    system, turns = turns[:has_system], turns[has_system:]
    expected = ("user", "assistant")
    if any(turn["role"] != expected[index % 2] for index, turn in enumerate(turns)):
        raise Dropped("turns out of order")
    if answered and turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    if not turns or turns[-1]["role"] != "user":
        raise Dropped("turns out of order" if turns else "empty prompts")
    if not turns[-1]["content"].strip():
        raise Dropped("empty prompts")
    return [turn for turn in system if turn["content"]] + turns


def _alpaca(source: Source, row: dict[str, Any], line: str) -> list[Message]:
    columns, turns = source.columns, []
    if columns.get("history"):
        history = _column(source, row, line, "history") or []
        if not isinstance(history, list) or any(not isinstance(e, list) or len(e) != 2 for e in history):
            raise BadInput(f"{line}: the history must be a list of [prompt, response] lists")
        for exchange in history:
            for role, text in zip(("user", "assistant"), exchange, strict=True):
                turns.append(Message(role=role, content=text_of(text, line, "a turn of the history")))
    parts = [_column(source, row, line, "prompt")]
    if columns.get("query") and (source.entry.get("columns") or columns["query"] in row):
        parts.append(_column(source, row, line, "query"))
    texts = [text_of(part, line, "the prompt") for part in parts if part]
    return [*turns, Message(role="user", content="\n".join(texts))]


def _sharegpt(source: Source, row: dict[str, Any], line: str) -> list[Message]:
    turns = _column(source, row, line, "messages")
    if not isinstance(turns, list):
        raise BadInput(f"{line}: column {source.columns['messages']!r} must be a list of turns")
    return [_turn(source, turn, line) for turn in turns]


def _turn(source: Source, turn: Any, line: str) -> Message:
    tags = source.tags
    role_tag, content_tag = tags["role_tag"], tags["content_tag"]
    roles = {tags["user_tag"]: "user", tags["assistant_tag"]: "assistant", tags["system_tag"]: "system"}
    if not isinstance(turn, dict) or role_tag not in turn or content_tag not in turn:
        raise BadInput(
            f"{line}: a turn must have {role_tag!r} and {content_tag!r}; this one is {spelled(turn):.60}"
        )
    role = text_of(turn[role_tag], line, f"{role_tag!r} of a turn")
    if role not in roles:
        raise Dropped(f"rows with turns by {role!r:.40}")
    if turn.get("tool_calls"):
        raise Dropped("rows with calls of tools")
    return Message(role=roles[role], content=text_of(turn[content_tag], line, "a turn"))


def _answer(source: Source, row: dict[str, Any], line: str, role: str) -> tuple[list[Message], str]:
    """The answer that columns.`role` names, after the turns before it: a text and a turn have none."""
    value = _column(source, row, line, role)
    if not value or not isinstance(value, (list, dict)):
        return [], text_of(value, line, role)
    *before, answer = [_turn(source, turn, line) for turn in (value if isinstance(value, list) else [value])]
    if answer["role"] != "assistant":
        raise Dropped("rows with an answer that is not the assistant's")
    return before and _in_order(before), answer["content"]
