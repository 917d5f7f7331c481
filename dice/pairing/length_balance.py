"""Length-regularised rewards and the search for alpha, exact or on the published grid. Pure numpy.

A response of reward r (nats, where it is implicit) and length l (characters or tokens) has the shaped reward
r - alpha * l (the paper's length-regularized reward shaping). A prompt's pair is its best and its
worst response by shaped reward. Alpha is chosen so that chosen and rejected responses are equally
long on average.

For one prompt, the best response as a function of alpha runs along the upper envelope of the lines
r - alpha * l, from the longest response (alpha at minus infinity) to the shortest; the worst runs
along the lower envelope, from the shortest to the longest. So the mean length difference of best
and worst is a non-increasing step function of alpha with at most 2(K-1) steps per prompt. All steps
are computed, which makes the search exact.
"""

from dataclasses import dataclass

import numpy as np

GRID = np.arange(0, 1, 0.001)  # the published sweep: 0, 0.001, 0.002, ... below 1
PROMPTS_AT_ONCE = 1 << 11  # prompts whose envelopes are walked together: bounds what is in memory


@dataclass(frozen=True)
class Balance:
    """The mean length difference (chosen minus rejected) as a step function of alpha.

    `differences[i]` holds between `alphas[i - 1]` and `alphas[i]`; the first interval starts at minus
    infinity, the last one ends at plus infinity. It never increases, from at least 0 to at most 0.
    """

    alphas: np.ndarray  # (S,), ascending, distinct
    differences: np.ndarray  # (S + 1,), non-increasing

    def best(self) -> tuple[float, float]:
        """The middle of the best interval, and the mean length difference there.

        The best interval is the one whose difference is nearest to zero; of several, the one
        nearest to alpha 0. Of an interval without an end, alpha 0 is taken where it lies inside,
        else a point one typical step away from its end.
        """
        lows = np.concatenate([[-np.inf], self.alphas])
        highs = np.concatenate([self.alphas, [np.inf]])
        distance_to_zero = np.maximum(np.maximum(lows, -highs), 0)
        best = np.lexsort((distance_to_zero, np.abs(self.differences)))[0]
        low, high = lows[best], highs[best]
        if np.isfinite(low) and np.isfinite(high):
            alpha = (low + high) / 2
        elif low < 0 < high:
            alpha = 0.0
        else:
            alpha = low + self._typical_step() if np.isfinite(low) else high - self._typical_step()
        return float(alpha), float(self.differences[best])

    def jump(self) -> tuple[float, float, float] | None:
        """(alpha, difference below it, difference above it) where zero is stepped over, else None."""
        above = np.searchsorted(-self.differences, 0, side="right")  # the first difference below 0
        if not (self.differences != 0).all():
            return None
        return tuple(float(x) for x in (self.alphas[above - 1], *self.differences[above - 1 : above + 1]))

    def curve(self, points: int = 512) -> tuple[np.ndarray, np.ndarray]:
        """Alphas, ascending, and the difference at each: the middles of at most so many intervals."""
        if not len(self.alphas):
            return np.zeros(1), self.differences
        step = self._typical_step()
        ends = np.concatenate([[self.alphas[0] - step], self.alphas, [self.alphas[-1] + step]])
        shown = np.unique(np.linspace(0, len(self.alphas), points).round().astype(int))
        return (ends[shown] + ends[shown + 1]) / 2, self.differences[shown]

    def _typical_step(self) -> float:
        return float(np.median(np.diff(self.alphas))) if len(self.alphas) > 1 else 1.0


def shaped_rewards(rewards: np.ndarray, lengths: np.ndarray, alpha: float) -> np.ndarray:
    """rewards - alpha * lengths, of any one shape, in the unit of the rewards."""
    return rewards - alpha * lengths


def best_and_worst(shaped: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns (P,) of each prompt's highest and lowest shaped reward among `present` ones, (P, K).

    Ties go to the lowest column, that is, the lowest sample number.
    """
    highest = np.where(present, shaped, -np.inf).argmax(1)
    lowest = np.where(present, shaped, np.inf).argmin(1)
    return highest, lowest


def sweep(rewards: np.ndarray, lengths: np.ndarray, present: np.ndarray) -> float:
    """Alpha as published, for scores of shape (P, K): the best on `GRID` before it gets worse.

    The sweep ends at the first alpha whose absolute mean length difference is above the smallest so
    far; the first alpha that reached the smallest is taken. Sums of whole numbers stand in for means.
    """
    rows = np.arange(len(rewards))
    chosen, smallest = 0.0, np.inf
    for alpha in GRID:
        best, worst = best_and_worst(shaped_rewards(rewards, lengths, alpha), present)
        size = abs(int((lengths[rows, best] - lengths[rows, worst]).sum()))
        if size > smallest:
            break
        if size < smallest:
            chosen, smallest = float(alpha), size
    return chosen


def balance(rewards: np.ndarray, lengths: np.ndarray, present: np.ndarray) -> Balance:
    """The step function of the mean length difference, for scores of shape (P, K).

    `present` marks the samples that exist; every prompt needs at least one.
    """
    alphas, jumps, start = [], [], 0.0
    for first in range(0, len(rewards), PROMPTS_AT_ONCE):
        part = slice(first, first + PROMPTS_AT_ONCE)
        r, n, there = rewards[part], lengths[part].astype(np.float64), present[part]
        # The lowest of r - alpha * l is the highest of (-r) - alpha * (-l): the same walk, mirrored.
        for walked in (_envelope(r, n, there), _envelope(-r, -n, there)):
            alphas.append(walked[0])
            jumps.append(walked[1])
            start += walked[2]
    crossings, changes = _merged(np.concatenate(alphas), np.concatenate(jumps))
    # Lengths are whole numbers, so these sums are exact.
    sums = start + np.concatenate([[0.0], np.cumsum(changes)])
    return Balance(crossings, sums / len(rewards))


def _merged(alphas: np.ndarray, jumps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Alphas in ascending order, each once, with the sum of the jumps there.

    Crossings that coincide may come out a rounding error apart: they count as one.
    """
    order = np.argsort(alphas)
    alphas, jumps = alphas[order], jumps[order]
    rounding = 8 * np.finfo(float).eps * np.abs(alphas)
    first = np.flatnonzero(np.diff(alphas, prepend=-np.inf) > rounding)
    return alphas[first], np.add.reduceat(jumps, first) if len(first) else jumps


def _envelope(
    rewards: np.ndarray, lengths: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Walk the upper envelope of every prompt's lines r - alpha * l from alpha = minus infinity.

    Returns the alphas at which a best response changes, the changes of its length there (all
    negative), and the sum of the prompts' lengths at minus infinity.
    """
    rows = np.arange(len(rewards))
    longest = np.where(present, lengths, -np.inf).max(1)
    at_longest = present & (lengths == longest[:, None])
    current = np.where(at_longest, rewards, -np.inf).argmax(1)
    alphas, jumps = [], []
    while len(rows):
        length, reward = lengths[rows, current], rewards[rows, current]
        shorter = present[rows] & (lengths[rows] < length[:, None])
        with np.errstate(divide="ignore", invalid="ignore"):
            crossing = (reward[:, None] - rewards[rows]) / (length[:, None] - lengths[rows])
        crossing = np.where(shorter, crossing, np.inf)
        nearest = crossing.min(1)
        # Of the lines that cross first, the shortest goes on along the envelope.
        tied = np.where(crossing == nearest[:, None], lengths[rows], np.inf)
        following = tied.argmin(1)
        going_on = np.isfinite(nearest)
        rows, following = rows[going_on], following[going_on]
        alphas.append(nearest[going_on])
        jumps.append(lengths[rows, following] - length[going_on])
        current = following
    return np.concatenate(alphas), np.concatenate(jumps), float(longest.sum())
