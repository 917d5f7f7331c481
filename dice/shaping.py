"""Length-regularised rewards and the exact search for alpha. Pure numpy.

A response of reward r (nats) and length l (characters or tokens) has the shaped reward
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


@dataclass(frozen=True)
class Balance:
    """The mean length difference (chosen minus rejected) as a step function of alpha.

    `differences[i]` holds between `alphas[i - 1]` and `alphas[i]`; the first interval starts at minus
    infinity, the last one ends at plus infinity.
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
        # Crossings that coincide may come out a rounding error apart; nothing lies between them.
        with np.errstate(invalid="ignore"):
            rounding = 8 * np.finfo(float).eps * np.maximum(np.abs(lows), np.abs(highs))
            empty = np.isfinite(rounding) & (highs - lows <= rounding)
        size = np.where(empty, np.inf, np.abs(self.differences))
        distance_to_zero = np.maximum(np.maximum(lows, -highs), 0)
        best = np.lexsort((distance_to_zero, size))[0]
        low, high = lows[best], highs[best]
        step = np.median(np.diff(self.alphas)) if len(self.alphas) > 1 else 1.0
        if np.isfinite(low) and np.isfinite(high):
            alpha = (low + high) / 2
        elif low < 0 < high:
            alpha = 0.0
        else:
            alpha = low + step if np.isfinite(low) else high - step
        return float(alpha), float(self.differences[best])


def shaped_rewards(rewards: np.ndarray, lengths: np.ndarray, alpha: float) -> np.ndarray:
    """rewards - alpha * lengths, of any one shape; nats."""
    return rewards - alpha * lengths


def best_and_worst(shaped: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns (P,) of each prompt's highest and lowest shaped reward among `present` ones, (P, K).

    Ties go to the lowest column, that is, the lowest sample number.
    """
    highest = np.where(present, shaped, -np.inf).argmax(1)
    lowest = np.where(present, shaped, np.inf).argmin(1)
    return highest, lowest


def balance(rewards: np.ndarray, lengths: np.ndarray, present: np.ndarray) -> Balance:
    """The step function of the mean length difference, for scores of shape (P, K).

    `present` marks the samples that exist; every prompt needs at least one.
    """
    best_alphas, best_jumps, best_start = _envelope(rewards, lengths, present)
    # The lowest of r - alpha * l is the highest of (-r) - alpha * (-l): the same walk, mirrored.
    worst_alphas, worst_jumps, worst_start = _envelope(-rewards, -lengths, present)
    alphas, where = np.unique(np.concatenate([best_alphas, worst_alphas]), return_inverse=True)
    jumps = np.bincount(where, weights=np.concatenate([best_jumps, worst_jumps]), minlength=len(alphas))
    # Lengths are whole numbers, so these sums are exact.
    sums = best_start.sum() + worst_start.sum() + np.concatenate([[0.0], np.cumsum(jumps)])
    return Balance(alphas, sums / len(rewards))


def _envelope(
    rewards: np.ndarray, lengths: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Walk the upper envelope of every prompt's lines r - alpha * l from alpha = minus infinity.

    Returns the alphas at which a best response changes, the changes of its length there (all
    negative), and each prompt's length at minus infinity, (P,).
    """
    lengths = lengths.astype(np.float64)
    rows = np.arange(len(rewards))
    masked = np.where(present, lengths, -np.inf)
    longest = masked.max(1)
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
    return np.concatenate(alphas), np.concatenate(jumps), longest
