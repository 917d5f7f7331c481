"""From a round's numbers to its pairs: alpha, then which samples of a prompt are paired. Pure numpy."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dice.pairing import health, length_balance
from dice.pairing.collapse import mean_and_deviation
from dice.pairing.table import Table


class Settings(Protocol):
    """What of a recipe the choice depends on: its group `pair` (`dice.recipe.groups.Pair`)."""

    length: str
    alpha: Any
    rejected: str
    per_prompt: int
    min_margin: float
    min_confidence: float


@dataclass(frozen=True)
class Picks:
    """Which samples are paired, (N,) each: ordered by prompt, a prompt's best pair first."""

    rows: np.ndarray
    chosen: np.ndarray  # columns
    rejected: np.ndarray

    def difference(self, values: np.ndarray) -> np.ndarray:
        """Chosen minus rejected of values (P, K)."""
        return values[self.rows, self.chosen] - values[self.rows, self.rejected]

    def take(self, keep: np.ndarray) -> "Picks":
        """The pairs of a mask or of indices."""
        return Picks(self.rows[keep], self.chosen[keep], self.rejected[keep])


@dataclass(frozen=True)
class Choice:
    """The pairs of a round, and how they came about."""

    picks: Picks  # rows are the table's
    alpha: float  # reward per character (or token)
    balance: length_balance.Balance
    dropped: dict[str, int]  # reason -> pairs
    figures: dict[str, Any]


def told_apart(table: Table, kept: np.ndarray) -> np.ndarray:
    """Those of some rows of the table whose rewards are not all the same: in others nothing is better."""
    highest = table.rewards.max(axis=1, where=table.present, initial=-np.inf)
    lowest = table.rewards.min(axis=1, where=table.present, initial=np.inf)
    return kept[(highest > lowest)[kept]]


def margin_of(confidence: float, beta: float) -> float:
    """The margin in nats, at least 0, at which DPO's sigma(beta * margin) is the confidence."""
    return max(math.log(confidence / (1 - confidence)) / beta, 0.0) if confidence else 0.0


def choose(table: Table, kept: np.ndarray, settings: Settings, seed: int, beta: float = 0.1) -> Choice:
    """Alpha and the pairs of some rows of the table (see `told_apart`); beta is DPO's.

    Zero and small margins are dropped, and pairs with equal rewards, which length alone would tell apart.
    Alpha balances best against worst, which is what `rejected: worst, per_prompt: 1` takes; the
    figures are those of the pairs that are taken, or would be without shaping.
    """
    rewards, present = table.rewards[kept], table.present[kept]
    lengths = table.lengths(settings.length)[kept]
    balance = length_balance.balance(rewards, lengths, present)
    alpha = settings.alpha
    if alpha == "auto":
        alpha, _ = balance.best()
    elif alpha == "grid":
        alpha = length_balance.sweep(rewards, lengths, present)

    shaped = length_balance.shaped_rewards(rewards, lengths, alpha)
    picks, unshaped = (pick(values, present, settings, seed) for values in (shaped, rewards))
    margins = picks.difference(shaped)
    zero = margins <= 0
    equal = ~zero & (picks.difference(rewards) == 0)
    least = max(settings.min_margin, margin_of(settings.min_confidence, beta))
    small = ~(zero | equal) & (margins < least)
    dropped = {"pairs with a zero margin": int(zero.sum()), "pairs with equal rewards": int(equal.sum())}
    if least:
        dropped[f"pairs with a margin under {least:g}"] = int(small.sum())
    picks = picks.take(~(zero | equal | small))
    margins = unshaped.difference(rewards)
    unshaped = unshaped.take((margins > 0) & (margins >= least))
    figures = {
        "alpha": float(alpha),
        "length_difference": _mean(picks.difference(lengths)),
        "length_difference_without_shaping": _mean(unshaped.difference(lengths)),
        "correlation": health.correlation(shaped, lengths, present),
        "correlation_without_shaping": health.correlation(rewards, lengths, present),
    }
    picks = Picks(kept[picks.rows], picks.chosen, picks.rejected)
    return Choice(picks, float(alpha), balance, dropped, figures)


def pick(shaped: np.ndarray, present: np.ndarray, settings: Settings, seed: int) -> Picks:
    """`settings.per_prompt` pairs of each prompt out of shaped rewards (P, K); ties go to the lower sample.

    The first is the best against the worst, the second the best against the worst of what is left,
    and so on; with `rejected: random` against a random one of those that are left, with `rejected: sigma`
    against the one nearest to two standard deviations below the mean of the prompt.
    """
    rows, left = np.arange(len(shaped)), present.copy()
    lottery = None  # rejected is the left one with the highest number
    if settings.rejected == "random":
        lottery = np.random.default_rng(seed).random(shaped.shape)
    elif settings.rejected == "sigma":
        mean, deviation = mean_and_deviation(shaped, present)
        lottery = -np.abs(shaped - (mean - 2 * deviation)[:, None])
    ranks = []
    for _ in range(settings.per_prompt):
        enough = left.sum(1) >= 2
        best, worst = length_balance.best_and_worst(shaped, left)
        if lottery is not None:
            left[rows, best] = False
            worst = np.where(left, lottery, -np.inf).argmax(1)
        left[rows, best] = left[rows, worst] = False
        ranks.append(np.stack([rows, best, worst])[:, enough])
    together = np.concatenate(ranks, axis=1)
    return Picks(*together[:, np.argsort(together[0], kind="stable")])


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else 0.0
