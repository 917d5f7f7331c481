"""How good an answer is: the share of what was asked for that it does, where it is a text on its topic.

An answer that is empty, off its topic or no natural text has quality 0, so that nothing can be won by
repeating the prompt, by empty lists, by single words or by saying one thing again and again. The limits are
wide for English prose and lists; they are not made for code, formulas or other languages.
"""

from collections import Counter
from collections.abc import Sequence

from constraints import listed, sentences
from prompts import read
from topics import speaks_of, words

FEWEST_WORDS = 4  # different ones
LONGEST_TOKEN = 40  # characters between two spaces
LONGEST_SENTENCE = 80  # words
WINDOW = 50  # words in which the different ones are counted: 30 or so where people write
FEWEST_DIFFERENT = 0.4  # of the words of a window
MOST_OF_ONE = 0.3  # of the words of a window
MOST_REPEATED = 0.25  # of an answer's sentences, and of its runs of four words
MOST_ECHOED = 0.5  # of an answer's words: those in runs of four that the prompt has as well
FEWEST_LETTERS = 0.7  # of an answer's characters, letters and spaces together
FEWEST_COMMON = 0.1  # of the words outside lists, where they are 8 or more
COMMON = frozenset(
    words("""
    a about after all also an and any are as at be because been but by can do for from had has have he her his
    how i if in into is it its just like many may more most my no not of on one or our out she so some such
    than that the their them then there these they this to up us very was we well were what when where which
    while who why will with would you your""")
)


def quality(prompt: str, response: str) -> float:
    """The quality of a response, in [0, 1]: the share of the prompt's constraints that it fulfils.

    It is 0 where the response is off topic or degenerate, and for prompts that are not of this world.
    """
    request = read(prompt)
    if request is None or not speaks_of(request.topic, response) or is_degenerate(prompt, response):
        return 0.0
    fulfilled = [constraint.fulfilled(response) for constraint in request.constraints]
    return sum(fulfilled) / len(fulfilled)


def is_degenerate(prompt: str, response: str) -> bool:
    """Whether a response is no natural text, says the same again and again, or repeats its prompt."""
    said = words(response)
    return (
        len({*said}) < FEWEST_WORDS
        or not _is_natural(response)
        or _repeats(response, said)
        or _echoed(words(prompt), said) > MOST_ECHOED
    )


def _is_natural(response: str) -> bool:
    letters = sum(char.isalpha() or char.isspace() for char in response)
    prose = [word for line in response.splitlines() if listed(line) is None for word in words(line)]
    common = sum(word in COMMON for word in prose)
    return (
        letters >= FEWEST_LETTERS * len(response)
        and max(map(len, response.split())) <= LONGEST_TOKEN
        and max(len(words(sentence)) for sentence in sentences(response)) <= LONGEST_SENTENCE
        and (len(prose) < 8 or common >= FEWEST_COMMON * len(prose))
    )


def _repeats(response: str, said: Sequence[str]) -> bool:
    parts = [tuple(words(sentence)) for sentence in sentences(response)]
    # A rest of less than half a window is too short to be told from chance.
    starts = range(0, max(1, len(said) - WINDOW // 2), WINDOW)
    return (
        any(_is_monotonous(said[start : start + WINDOW]) for start in starts)
        or _repeated(parts) > MOST_REPEATED
        or _repeated(_runs(said)) > MOST_REPEATED
    )


def _is_monotonous(window: Sequence[str]) -> bool:
    counts = Counter(window)
    most = max((count for word, count in counts.items() if word not in COMMON), default=0)
    return len(counts) < FEWEST_DIFFERENT * len(window) or most > max(2, MOST_OF_ONE * len(window))


def _repeated(parts: Sequence[tuple[str, ...]]) -> float:
    """The share of the parts that were there before."""
    return 1 - len({*parts}) / len(parts) if parts else 0.0


def _runs(said: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(said, said[1:], said[2:], said[3:], strict=False))


def _echoed(asked: Sequence[str], said: Sequence[str]) -> float:
    """The share of the words said that are in runs of four words which were asked."""
    known = {*_runs(asked)}
    echoed = {start + i for start, run in enumerate(_runs(said)) if run in known for i in range(4)}
    return len(echoed) / len(said)
