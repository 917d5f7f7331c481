"""Figures that tell whether a loop collapses: repetition, spread, and rankings that no longer agree. Pure."""

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

LONGEST = 4  # words of an n-gram
LONGEST_WORD = 20  # characters; what is longer (a loop without spaces, an address) is read by characters
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Thai to Chinese
WORD = re.compile(f"[{UNSPACED}]|[^\\s{UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """The words of a text, by its spaces; of scripts that write none, its characters."""
    return [part for word in WORD.findall(text) for part in (word if len(word) > LONGEST_WORD else (word,))]


def distinct(texts: Iterable[str]) -> dict[str, float]:
    """How few n-grams of words, n from 1 to 4, a text repeats: its distinct ones by all, the mean over texts.

    `repeating` is the share of the texts in which most 4-grams have been there before. Texts shorter than n
    words say nothing of n.
    """
    shares: dict[int, list[float]] = {n: [] for n in range(1, LONGEST + 1)}
    for text in texts:
        words = words_of(text)
        for n, found in shares.items():
            grams = Counter(zip(*(words[start:] for start in range(n)), strict=False))
            if grams:
                found.append(len(grams) / grams.total())
    figures = {f"distinct_{n}": float(np.mean(found)) for n, found in shares.items() if found}
    if last := shares[LONGEST]:
        figures["repeating"] = float(np.mean(np.array(last) < 0.5))
    return figures


def taus(ours: np.ndarray, theirs: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Kendall's tau of two rankings of each prompt's samples, (P, K) each; (P,), NaN where it has none.

    A pair that both order alike counts 1, one that they order otherwise -1, a tie 0. Samples that are not
    present, or NaN in one of the two, don't count.
    """
    present = present & ~np.isnan(ours + theirs)
    agree, pairs = np.zeros(len(ours)), np.zeros(len(ours))
    for apart in range(1, ours.shape[1]):
        both = present[:, apart:] & present[:, :-apart]
        signs = [np.sign(side[:, apart:] - side[:, :-apart]) for side in (ours, theirs)]
        agree += np.where(both, signs[0] * signs[1], 0).sum(1)
        pairs += both.sum(1)
    return np.where(pairs > 0, agree / np.maximum(pairs, 1), np.nan)


def mean_and_deviation(rewards: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (P,) each, of a prompt's present rewards, (P, K); 0 of none."""
    count = np.maximum(present.sum(1), 1)
    mean = np.where(present, rewards, 0).sum(1) / count
    variance = np.where(present, (rewards - mean[:, None]) ** 2, 0).sum(1) / count
    return mean, np.sqrt(variance)
