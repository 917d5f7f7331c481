"""The ways to fail: the input is wrong (status 2), a stage broke (status 1), or a gate is closed (status 3).

Secrets of the environment, HF_TOKEN say, stay out of everything that is shown or kept. Counts and values in
messages are written for readers who know no Python.
"""

import contextlib
import functools
import json
import os
import re
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Self

# Names with such a word hold a secret: HF_TOKEN, OPENAI_API_KEY; TOKENIZERS_PARALLELISM does not.
SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS)(_|$)", re.IGNORECASE)
OWN = ("localhost", "127.0.0.1")  # this machine: only with its port does it tell anything
UNRESERVED = re.compile(r"[\w.~-]", re.ASCII)  # what URLs, JSON and Python write as it is
SHORTEST = 8  # characters: a shorter value, "true" say, is no secret, and stands in many texts
# Keys of LLaMA-Factory and vLLM that are given secrets (hf_hub_token, hf_token); a recipe is written down.
SECRET_KEY = re.compile(r"(^|[_.])(token|api_key|secret|password)$")


def secrets() -> dict[str, str]:
    """Values that must not be shown, by variable; the longest first, which may hold others."""
    named = {name: value.strip() for name, value in os.environ.items() if SECRET.search(name)}
    longest_first = sorted(named.items(), key=lambda pair: -len(pair[1]))
    return {name: value for name, value in longest_first if len(value) >= SHORTEST}


def hidden() -> dict[str, str]:
    """What stays out of messages and logs: secrets, and the host of a judge's address."""
    host = _host(os.environ.get("OPENAI_BASE_URL", ""))
    return secrets() | ({"OPENAI_BASE_URL": host} if len(host) >= SHORTEST else {})


def _host(url: str) -> str:
    """The host of an address, with its port where it is this machine; "" where there is nothing to tell."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return ""
    if host in OWN:
        return f"{host}:{port}" if port else ""
    return host


@functools.cache
def _written(value: str) -> re.Pattern[str]:
    """A value as it is, and as URLs, JSON and Python write it, all of its characters or some: %24."""
    return re.compile("".join(map(_character, value)))


def _character(character: str) -> str:
    """A pattern for the ways to write a character of a secret."""
    if UNRESERVED.fullmatch(character):
        return re.escape(character)
    in_url = urllib.parse.quote(character, safe="", errors="surrogateescape")
    escapes = {json.dumps(character)[1:-1], ascii(character)[1:-1]} - {character}
    ways = [rf"\\*{re.escape(character)}", f"(?i:{in_url})"]  # text in JSON in JSON has more backslashes
    ways += [rf"\\*(?i:{re.escape(escape)})" for escape in sorted(escapes)]
    return f"(?:{'|'.join([*ways, *([re.escape('+')] if character == ' ' else [])])})"


def redacted(text: str) -> str:
    """A text with everything hidden replaced by its name in brackets, in whatever way it is written."""
    for name, value in hidden().items():
        text = _written(value).sub(f"[{name}]", text)
    return text


def clean(log: Path) -> None:
    """Take what is hidden out of a log that other programs wrote, if there are any.

    On a disk without room, where that can't be done, the failure to be told is another one.
    """
    with contextlib.suppress(OSError):
        content = log.read_bytes()
        cleaned = redacted(content.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        if cleaned != content:
            log.write_bytes(cleaned)


def first_in(text: str, known: Mapping[str, str] | None = None) -> str | None:
    """The variable whose secret value is part of a text, if any; `known` has the secrets by variable."""
    known = secrets() if known is None else known
    return next((name for name, value in known.items() if _written(value).search(text)), None)


def printable(text: str) -> str:
    """A text in which nothing moves a terminal's cursor, colours it or hides: as escapes, \\x1b or \\n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def counted(number: int, what: str) -> str:
    """A count with what is counted: "1 prompt", "2,000 prompts"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def spelled(value: object) -> str:
    """A value as it is written in files, null or true, and not as in Python, None or True; text in quotes."""
    return repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing: libraries write essays.

    Of a heading, which ends with a colon, the first line below it is part.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


class Unmade(str):
    """What a check says that could not be made: no reason to refuse a recipe, but none to call it right."""


class BadInput(Exception):
    """Something a user gave can't be used. The message is one line: file, line, key, what would be right.

    Of a very long one, a name that is a whole file say, the middle is left out.
    """

    status = 2
    longest = 2000  # characters

    def __init__(self, message: str) -> None:
        text, half = printable(redacted(message)), self.longest // 2 - 2
        super().__init__(text if len(text) <= self.longest else f"{text[:half]} … {text[-half:]}")


class Unreadable(BadInput):
    """A file is there and may not, or can't, be read. Nobody knows what is in it, so nothing replaces it."""

    @classmethod
    def because(cls, path: Path | str, error: OSError) -> Self:
        return cls(f"{path}: can't be read ({error.strerror}); allow access, or see to its disk")


class GateClosed(Exception):
    """A figure of a round is out of its bounds (`gates`). The message is a line: which one, what is best."""

    status = 3


class StageFailed(Exception):
    """A stage's worker failed. The message ends with the end of its log and the log's path."""

    status = 1

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(printable, redacted(message).split("\n"))))
