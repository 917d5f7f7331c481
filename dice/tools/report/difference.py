"""Which words tell two texts apart."""

import re
from collections.abc import Iterator
from difflib import Match, SequenceMatcher

# A word or a sign, with the space before it. Scripts without spaces are compared by character.
UNSPACED = "\u3040-\u30ff\u3400-\u9fff"
WORD = re.compile(rf"\s*(?:[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s])|\s+")


def differences(ours: str, theirs: str) -> tuple[list[int], list[int]]:
    """The lengths of each text's parts in turn: one that differs, one that both have, and so on.

    A length counts UTF-16 units, as JavaScript does, and may be 0. Texts without halves of characters.
    """
    words = WORD.findall(ours), WORD.findall(theirs)
    first, second = ([word.strip() for word in side] for side in words)
    blocks = SequenceMatcher(None, first, second).get_matching_blocks()
    return tuple([*_parts(side, blocks, number)] for number, side in enumerate(words))


def _parts(words: list[str], blocks: list[Match], side: int) -> Iterator[int]:
    at = 0
    for block in blocks:
        start, end = block[side], block[side] + block.size
        yield from (_units(words[at:start]), _units(words[start:end]))
        at = end


def _units(words: list[str]) -> int:
    return len("".join(words).encode("utf-16-le")) // 2
