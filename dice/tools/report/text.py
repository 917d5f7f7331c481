"""Texts of models, made harmless to look at. HTML is escaped by the template; this is about the rest."""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, TypeVar

T = TypeVar("T")

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# Control characters but for newline and tab, halves of characters, and what reorders or hides text.
ODD = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def visible(text: str) -> str:
    """A text whose control characters are signs of their own: ESC is ␛, a right-to-left override [U+202E]."""
    return ODD.sub(lambda match: _sign(match[0]), text)


def _sign(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\N{SYMBOL FOR DELETE}"
    if unicodedata.category(character) == "Cs":
        return REPLACEMENT
    return f"[U+{code:04X}]"


def clipped(text: str, limit: int) -> str:
    """At most `limit` characters of a text, and how many more there are."""
    return text if len(text) <= limit else f"{text[:limit]} … [{len(text) - limit:,} more characters]"


def fitting(shown: Sequence[T], size: Callable[[T], int], room: int) -> list[T]:
    """The first ones of what is to be shown, as many as take at most `room` bytes together."""
    sizes = accumulate(map(size, shown))
    return [each for each, taken in zip(shown, sizes, strict=True) if taken <= room]


def minus(text: str) -> str:
    """Signs of negative numbers as minus signs."""
    return re.sub(r"(?<![\w-])-(?=[\d.])", "−", text)


def embedded(value: Any) -> str:
    """JSON that may stand inside a <script> element: nothing in it can end the element."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def duration(seconds: float) -> str:
    """Seconds as people say them: 12 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
