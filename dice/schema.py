"""The rows that pass between stages: the only place a column is named.

Every row type is written as one JSON object per line. Rows join by `(prompt_id, sample)`, never by
position. Lengths in characters (`n_chars`) are Python's, that is Unicode code points; lengths in
tokens (`n_tokens`) include the end-of-turn token; log-probs and rewards are in nats.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, TypedDict, TypeVar, get_type_hints

from dice.errors import BadInput


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(slots=True)
class Prompt:
    """A conversation that ends with the user's turn."""

    prompt_id: str
    messages: list[Message]


@dataclass(slots=True)
class Response:
    """One sampled response. `finish_reason` is "stop" (a stop token) or "length" (the limit)."""

    prompt_id: str
    sample: int
    response: str
    n_chars: int
    n_tokens: int
    finish_reason: str
    seed: int


@dataclass(slots=True)
class Score:
    """The implicit reward of a response: reward = logp_policy - logp_ref, summed over its tokens."""

    prompt_id: str
    sample: int
    n_chars: int
    n_tokens: int
    logp_policy: float
    logp_ref: float
    reward: float


@dataclass(slots=True)
class Logps:
    """Log-probs of a response under one model: summed, and token by token where that is asked for."""

    prompt_id: str
    sample: int
    n_tokens: int
    logp: float
    token_logps: list[float]


@dataclass(slots=True)
class TokenRewards:
    """The implicit reward of each token of a response, with the token's text; they add up to the sum."""

    prompt_id: str
    sample: int
    tokens: list[str]
    token_rewards: list[float]


@dataclass(slots=True)
class Pair:
    """The best and the worst response of a prompt, by length-regularised reward (`*_shaped`)."""

    prompt_id: str
    messages: list[Message]
    chosen: str
    rejected: str
    chosen_sample: int
    rejected_sample: int
    chosen_reward: float
    rejected_reward: float
    chosen_shaped: float
    rejected_shaped: float


@dataclass(slots=True)
class Preference:
    """An offline preference: what a pair becomes for training."""

    prompt_id: str
    messages: list[Message]
    chosen: str
    rejected: str


@dataclass(slots=True)
class Judged:
    """The quality that the recipe's judge gives to a response to a held-out prompt."""

    prompt_id: str
    sample: int
    quality: float


Row = TypeVar("Row", Prompt, Response, Score, Logps, TokenRewards, Pair, Preference, Judged)


def prompt_id(messages: list[Message]) -> str:
    """First 16 hex digits of the sha256 of the messages' canonical JSON."""
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    canonical = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def to_line(row: Any) -> str:
    """One row as a line of JSON, newline included. Unpaired surrogates are escaped."""
    data = {field.name: getattr(row, field.name) for field in fields(row)}
    line = json.dumps(data, ensure_ascii=False)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(data)
    return line + "\n"


def from_line(kind: type[Row], line: str, where: str) -> Row:
    """Parse a line written by `to_line`. `where` (file:line) goes into the message.

    Raises BadInput for a line that is not JSON, and for a missing, unknown or ill-typed column.
    """
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON ({error.msg}, column {error.colno})") from None
    names = [field.name for field in fields(kind)]
    if not isinstance(data, dict) or set(data) != set(names):
        raise BadInput(f"{where}: not a {kind.__name__} row; its columns are {', '.join(names)}")
    for name, expected in _plain_types(kind).items():
        value = data[name]
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise BadInput(f"{where}: column {name!r} is {value!r:.40}, not {expected.__name__}")
    return kind(**data)


@cache
def _plain_types(kind: type) -> dict[str, type]:
    hints = get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if hint in (str, int, float)}
