"""Everyday topics, and which answers speak of one.

`topics.txt` has a topic a line. No two topics share a content word, so sets that share no topic share no
content word either.
"""

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

TOPICS = tuple((Path(__file__).parent / "topics.txt").read_text(encoding="utf-8").split("\n")[:-1])
_ENDING = re.compile(r"(?:i?ness|ies|ied|y|ing|ed|es|e|(?<![su])s)$")
_WORD = re.compile(r"[^\W\d_]+")


def words(text: str) -> list[str]:
    """The words of a text in lower case: runs of letters."""
    return _WORD.findall(text.lower())


@lru_cache(100_000)
def stem(word: str) -> str:
    """A word without a usual ending, so that "knits" and "knitting" are one; at least 3 letters stay."""
    ending = _ENDING.search(word, 3)
    rest = word[: ending.start()] if ending else word
    return rest[:-1] if len(rest) > 3 and rest[-1] == rest[-2] else rest


@cache
def content(topic: str) -> frozenset[str]:
    """The stems of a topic's words, without articles."""
    return frozenset(stem(word) for word in words(topic) if word != "the")


def speaks_of(topic: str, text: str) -> bool:
    """Whether a word of the topic occurs in the text, whatever its ending."""
    return not content(topic).isdisjoint(map(stem, words(text)))


def split(topics: Sequence[str], shares: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """The topics, shuffled, in disjoint sets: `shares` has each set's name and its share of the topics."""
    shuffled = random.Random(seed).sample(topics, len(topics))
    sets, start = {}, 0
    for name, share in shares.items():
        end = start + int(share * len(topics))
        sets[name], start = shuffled[start:end], end
    return sets
