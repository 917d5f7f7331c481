"""Instructions whose fulfilment a program can check: what is asked for, in several wordings, and the check.

Every check reads a response once, from left to right: its time is linear in the response's length.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from string import whitespace
from typing import Any

from topics import words

_CLOSING = "\"'”’)]*_"  # what may stand behind a sentence's end
_ABBREVIATIONS = ("e.g.", "i.e.", "etc.", "vs.", "mr.", "mrs.", "ms.", "dr.", "st.", "u.s.", "a.m.", "p.m.")
_LISTED = re.compile(r"[ \t]{0,8}(?:(\d{1,3})[.)]|[-*•])[ \t]+(?=\S)")


def listed(line: str) -> str | None:
    """What marks a line as a list's item: its number, or "" for a bullet; None where it is none."""
    marker = _LISTED.match(line)
    return (marker[1] or "") if marker and words(line) else None


def sentences(text: str) -> list[str]:
    """The sentences of a text: they end at . ! or ? before a space, and at the end of a line.

    The marks of a list's items are no sentences, and neither are pieces without a word.
    """
    found: list[str] = []
    for line in text.splitlines():
        begun: list[str] = []
        marker = _LISTED.match(line)
        for token in line[marker.end() if marker else 0 :].split():
            begun.append(token)
            end = token.rstrip(_CLOSING)
            if end.endswith((".", "!", "?")) and end.lower().lstrip("(\"'“") not in _ABBREVIATIONS:
                found.append(" ".join(begun))
                begun = []
        found.append(" ".join(begun))
    return [sentence for sentence in found if words(sentence)]


def _numbered(response: str, count: int) -> bool:
    numbers = [number for line in response.splitlines() if (number := listed(line))]
    return numbers == [str(i + 1) for i in range(count)]


def _bulleted(response: str, count: int) -> bool:
    return [listed(line) for line in response.splitlines()].count("") == count


def _ends_with(response: str, mark: str) -> bool:
    end = response.rstrip(_CLOSING + whitespace)
    last = sentences(response)[-1].rstrip(_CLOSING)
    # A mark on its own, or behind a full stop, makes no question of what stands before it.
    return end.endswith(mark) and last.endswith(mark) and last[-2] not in "., "


def _is_quoted(response: str, _: None) -> bool:
    text = response.strip()
    inside = text[1:-1]
    return text[:1] in ("“", '"') and text[-1:] in ("”", '"') and not {*inside}.intersection('"“”')


@dataclass(frozen=True)
class Kind:
    """A kind of constraint. Two kinds that claim the same part of an answer are not asked for together."""

    name: str
    check: Callable[[str, Any], bool]  # of a response and a value
    values: tuple[Any, ...]
    claims: str  # names of parts, with spaces between them
    wordings: tuple[str, ...]  # each one sentence, with {} for the value

    def goes_with(self, other: "Kind") -> bool:
        return {*self.claims.split()}.isdisjoint(other.claims.split())


@dataclass(frozen=True)
class Constraint:
    """A kind with its value, such as at most 25 words."""

    kind: Kind
    value: Any

    def fulfilled(self, response: str) -> bool:
        """Whether the response does what is asked. Where it has no word, it does nothing."""
        return bool(words(response)) and self.kind.check(response, self.value)

    def asked(self) -> list[str]:
        """The sentences that ask for it."""
        return [wording.format(self.value) for wording in self.kind.wordings]


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "max_words",
            lambda response, count: len(response.split()) <= count,
            (15, 20, 25, 30),
            "length",
            (
                "Use at most {} words.",
                "Answer in no more than {} words.",
                "Your answer must not be longer than {} words.",
                "Keep it to {} words or fewer.",
            ),
        ),
        Kind(
            "one_sentence",
            lambda response, _: len(sentences(response)) == 1,
            (None,),
            "shape",
            (
                "Answer in exactly one sentence.",
                "Use a single sentence.",
                "Your whole answer must be one sentence.",
                "Say it in one sentence only.",
            ),
        ),
        Kind(
            "two_sentences",
            lambda response, _: len(sentences(response)) == 2,
            (None,),
            "shape",
            (
                "Answer in exactly two sentences.",
                "Use two sentences, no more and no less.",
                "Your whole answer must be two sentences long.",
            ),
        ),
        Kind(
            "no_commas",
            lambda response, _: not {*response}.intersection(",，、"),
            (None,),
            "commas",
            (
                "Do not use any commas.",
                "Your answer must not contain a comma.",
                "Write without commas.",
            ),
        ),
        Kind(
            "numbered_list",
            _numbered,
            (3,),
            "shape start end",
            (
                "Answer with a numbered list of exactly {} items.",
                "Give {} points as a numbered list.",
                "Write a list of {0} items, numbered from 1 to {0}.",
                "Your answer must be a numbered list with {} entries.",
            ),
        ),
        Kind(
            "bullet_list",
            _bulleted,
            (2, 3, 4),
            "shape start end",
            (
                "Answer with exactly {} bullet points.",
                "Give a bullet list of {} items.",
                "Your answer must be a list with {} bullets.",
            ),
        ),
        Kind(
            "question_end",
            _ends_with,
            ("?",),
            "end",
            (
                "End your answer with a question mark.",
                "Your answer must end with a question mark.",
                "The last character of your answer must be a question mark.",
                "Finish with a question mark.",
            ),
        ),
        Kind(
            "exclamation_end",
            _ends_with,
            ("!",),
            "end",
            (
                "End your answer with an exclamation mark.",
                "The last character of your answer must be an exclamation mark.",
                "Finish with an exclamation mark.",
            ),
        ),
        Kind(
            "lower_case",
            lambda response, _: response == response.lower(),
            (None,),
            "case",
            (
                "Write everything in lower case.",
                "Do not use capital letters.",
                "Your whole answer must be in lowercase letters.",
            ),
        ),
        Kind(
            "first_word",
            lambda response, word: words(response)[0] == word.lower(),
            ("Well", "Perhaps", "Many", "Today", "Imagine"),
            "start case",
            (
                'Begin your answer with the word "{}".',
                'The first word of your answer must be "{}".',
                'Start with "{}".',
            ),
        ),
        Kind(
            "keyword",
            lambda response, word: word in words(response),
            ("because", "important", "together", "often", "beautiful", "remember"),
            "word",
            (
                'Use the word "{}" in your answer.',
                'Your answer must contain the word "{}".',
                'Include the word "{}" at least once.',
            ),
        ),
        Kind(
            "keyword_twice",
            lambda response, word: words(response).count(word) >= 2,
            ("because", "important", "together", "often", "beautiful", "remember"),
            "word",
            (
                'Use the word "{}" at least twice.',
                'Your answer must contain the word "{}" two times or more.',
            ),
        ),
        Kind(
            "quoted",
            _is_quoted,
            (None,),
            "start end",
            (
                "Put your whole answer in double quotation marks.",
                "Wrap your entire answer in quotation marks.",
                "Begin and end your answer with a double quotation mark.",
            ),
        ),
    )
}
