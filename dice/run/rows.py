"""The rows that pass between stages: the only place a column is named.

Every row type is written as one JSON object per line. Rows join by `(prompt_id, sample)`, never by
position. Lengths in characters (`n_chars`) are Python's, that is Unicode code points; lengths in
tokens (`n_tokens`) include the end-of-turn token; log-probs and implicit rewards are in nats.
"""

import hashlib
import json
from functools import cache
from typing import Any, TypedDict, TypeVar, get_type_hints

import msgspec

from dice.errors import BadInput, spelled


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """What every row type is: compact in memory, read and checked in one step, free of cycles."""


class Prompt(_Row):
    """A conversation that ends with the user's turn."""

    prompt_id: str
    messages: list[Message]


class Response(_Row, omit_defaults=True):
    """One sampled response. `finish_reason` is "stop" (a stop token) or "length" (the limit).

    `response_ids` are there where the text, encoded again, would become other tokens than were sampled.
    `logp` is the engine's log-prob of the response before temperature, summed over its tokens; runs of
    earlier versions have none. `token_logps` are its parts, where the recipe asks for them.
    """

    prompt_id: str
    sample: int
    response: str
    n_chars: int
    n_tokens: int
    finish_reason: str
    seed: int
    response_ids: list[int] | None = None
    logp: float | None = None
    token_logps: list[float] | None = None


class UnreadResponse(_Row):
    """A `Response` whose text and ids are left as they stand in the file, for passing over them."""

    prompt_id: str
    sample: int
    response: msgspec.Raw  # JSON
    n_chars: int
    n_tokens: int
    finish_reason: str
    seed: int
    response_ids: msgspec.Raw = msgspec.Raw()  # JSON; empty where there are none
    logp: float | None = None
    token_logps: msgspec.Raw = msgspec.Raw()  # JSON


class Score(_Row, omit_defaults=True):
    """The reward of a response, in the unit of its source: nats where it is implicit.

    `ids_hash` stands for the token ids of prompt and response, as training encodes them
    (`dice.models.reference_table.response_hash`). Of an implicit reward the two halves are there, summed
    over the response's tokens: reward = logp_policy - logp_ref, or that per token, or by the number of rounds
    that it is averaged over. Other sources have none. `logp_check` is the policy's half once more, where both
    the engine and the scorer know it. `reward_before` is what the round before's reward makes of it, where
    that is known.
    """

    prompt_id: str
    sample: int
    ids_hash: str
    n_chars: int
    n_tokens: int
    logp_policy: float | None
    logp_ref: float | None
    reward: float
    logp_check: float | None = None
    reward_before: float | None = None


class Dropped(_Row):
    """A response that has no score, and why."""

    prompt_id: str
    sample: int
    reason: str


class Graded(_Row):
    """What a judge said of a response: a grade for each time it answered, null where none can be read."""

    prompt_id: str
    sample: int
    grades: list[float | None]


class Logps(_Row):
    """A response as token ids, and its log-probs under the policy, while the reference's are still to come.

    The log-probs are summed over the response, and given token by token as well where that is asked for.
    `others` are the sums under further models that have read it so far.
    """

    prompt_id: str
    sample: int
    n_chars: int
    prompt_ids: list[int]
    response_ids: list[int]
    logp: float
    token_logps: list[float]
    logp_check: float | None = None
    others: list[float] = []


class TokenRewards(_Row):
    """The implicit reward of each token of a response, with the token's text; they add up to the sum."""

    prompt_id: str
    sample: int
    tokens: list[str]
    token_rewards: list[float]


class Pair(_Row, omit_defaults=True):
    """The best and the worst response of a prompt, by length-regularised reward (`*_shaped`).

    `chosen_ids` and `rejected_ids` are the `response_ids` of the two.
    """

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
    chosen_ids: list[int] | None = None
    rejected_ids: list[int] | None = None


class SampledIds(_Row, omit_defaults=True):
    """The token ids that a pair's responses were sampled as, where their texts would become others.

    `pair_key` is that of the pair's texts, for those who read the texts of a data set.
    """

    pair_key: str
    chosen_ids: list[int] | None = None
    rejected_ids: list[int] | None = None


class Smoothing(_Row):
    """The probability that a pair is ordered wrongly, by which training smooths its label."""

    pair_key: str
    smoothing: float


class Preference(_Row):
    """An offline preference: what a pair becomes for training."""

    prompt_id: str
    messages: list[Message]
    chosen: str
    rejected: str


class Judged(_Row):
    """The quality that the recipe's judge gives to a response to a held-out prompt."""

    prompt_id: str
    sample: int
    quality: float


class Judgment(_Row):
    """What a benchmark's judge said; `name` is that of the question with the game or turn."""

    name: str
    text: str
    verdict: str | float | None  # a label or a grade; None where none could be read
    failure: str | None  # why there is no text, where there is none


class Step(_Row):
    """A point of the balance's curve: at this alpha, chosen is longer than rejected by so much on average."""

    alpha: float  # reward per character (or token)
    length_difference: float  # characters (or tokens)


Row = TypeVar(
    "Row",
    Prompt, Response, UnreadResponse, Score, Dropped, Graded, Logps, TokenRewards, Pair, SampledIds,
    Preference, Judged, Judgment, Step,
)  # fmt: skip


def prompt_id(messages: list[Message]) -> str:
    """First 16 hex digits of the sha256 of the messages' canonical JSON."""
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    canonical = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def pair_key(messages: list[Message], chosen: str, rejected: str) -> str:
    """What tells the texts of a pair from those of others: `prompt_id` with both answers."""
    asked = [message for message in messages if message["role"] != "system" or message["content"]]
    return prompt_id([*asked, *(Message(role="assistant", content=text) for text in (chosen, rejected))])


def to_line(row: Any) -> bytes:
    """One row as a line of JSON, newline included. Unpaired surrogates are escaped.

    What JSON has no form for, such as a column of dates of the user's, is written as text.
    """
    try:
        return msgspec.json.encode(row, enc_hook=str) + b"\n"
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(row, enc_hook=str)).encode() + b"\n"


def from_line(kind: type[Row], line: str | bytes, where: str) -> Row:
    """Parse a line written by `to_line`. `where` (file:line) goes into the message.

    Raises BadInput for a line that is not JSON, and for a missing, unknown or ill-typed column.
    """
    try:
        return decoder(kind).decode(line)
    except (msgspec.MsgspecError, UnicodeError):
        return _from_odd_line(kind, line, where)


@cache
def decoder(kind: type[Row]) -> msgspec.json.Decoder:
    """A fast and strict parser of `kind`'s lines; what it refuses, `from_line` explains."""
    return msgspec.json.Decoder(kind)


def _from_odd_line(kind: type[Row], line: str | bytes, where: str) -> Row:
    """Python's parser takes a little more (NaN, unpaired surrogates) and knows what is wrong."""
    try:
        data = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON ({error.msg}, column {error.colno})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the line)") from None
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all measure
        raise BadInput(f"{where}: {error}") from None
    names = kind.__struct_fields__
    needed = {*names[: len(names) - len(kind.__struct_defaults__)]}
    if not isinstance(data, dict) or not needed <= data.keys() <= {*names}:
        title = kind.__name__.removeprefix("Unread")
        raise BadInput(f"{where}: not a {title} row; its columns are {', '.join(names)}")
    for name, expected in _plain_types(kind).items():
        value = data[name]
        if type(value) is not expected and not (expected is float and type(value) is int):
            raise BadInput(f"{where}: column {name!r} is {spelled(value):.40}, not {IN_WORDS[expected]}")
    try:
        if kind is UnreadResponse:
            raw = data.keys() & {"response", "response_ids", "token_logps"}
            data |= {name: msgspec.Raw(json.dumps(data[name]).encode()) for name in raw}
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        raise BadInput(f"{where}: {error}") from None


IN_WORDS = {str: "text", int: "a whole number", float: "a number"}


@cache
def _plain_types(kind: type) -> dict[str, type]:
    hints = get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if hint in (str, int, float)}
