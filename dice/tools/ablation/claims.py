"""What was published, each claim held against the grid's figures."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from dice.tools.ablation.grid import Grid
from dice.tools.ablation.results import Figures, Mean, Setting, difference


class Claim(NamedTuple):
    """That one value of an axis has more of a measure than another."""

    text: str
    axis: str
    more: str
    less: str
    measure: str = "win_rate"


CLAIMS = (
    Claim("Implicit rewards beat random ones", "reward", "implicit", "random"),
    Claim("Implicit rewards beat a reward model of the same pairs", "reward", "implicit", "reward_model"),
    Claim("Implicit rewards beat a judge's grades", "reward", "implicit", "judge"),
    Claim("Length balance keeps answers from growing", "balance", "off", "on", "mean_chars"),
    Claim("Replaying half offline pairs beats none", "gamma", "0.5", "0"),
    Claim("DICE beats more DPO on the offline pairs alone", "gamma", "0.5", "1"),
    Claim("Rejected 2 deviations below the mean beats the worst (2502.16825)", "rejected", "sigma", "worst"),
    Claim("Pairs of confidence 0.55 beat all pairs (after 2406.04412)", "confidence", "0.55", "0"),
    Claim("Pairs of confidence 0.65 beat all pairs (after 2406.04412)", "confidence", "0.65", "0"),
    Claim("Offline pairs of large margins beat random ones (2410.09362)", "select", "top", "random"),
    Claim("Offline pairs of small margins beat random ones (2508.04149)", "select", "bottom", "random"),
    Claim("Rewards per token beat sums", "normalize", "tokens", "none"),
    Claim("Rewards averaged over rounds beat one round's (2410.09362)", "average", "2", "1"),
    Claim("Rewards against the first reference beat one round's", "reference", "first", "previous"),
    Claim("Smoothing by two rounds' agreement beats none (2410.12735)", "smoothing", "consistency", "none"),
    Claim("Smoothing by margin beats none (after 2406.04412)", "smoothing", "confidence", "none"),
    Claim("DPO per token beats DPO (Tulu 3)", "loss", "length_normalized", "dpo"),
    Claim("WPO's weights beat none (2406.11827)", "loss", "wpo", "dpo"),
)


@dataclass(frozen=True)
class Verdict:
    """A claim, the difference that it says is above zero, in words with its unit, and what was found."""

    claim: str
    measured: str
    measure: str
    found: Mean

    @property
    def says(self) -> str:
        """agrees or disagrees where zero is outside the interval, else that it can't be told."""
        found = self.found
        if not found.count:
            return "not run"
        if math.isnan(found.margin) or abs(found.mean) <= found.margin:
            return "can't tell"
        return "agrees" if found.mean > 0 else "disagrees"


def verdicts(figures: Figures, grid: Grid) -> list[Verdict]:
    """Every claim that the grid has something to say about."""

    def verdict(text: str, told: str, more: Setting, less: Setting, measure: str = "win_rate") -> Verdict:
        what = "win rate" if measure == "win_rate" else "characters"
        return Verdict(text, f"{what}, {told}", measure, difference(figures, more, less, measure))

    found = []
    for text, axis, more, less, measure in CLAIMS:
        if {(axis, more), (axis, less)} <= {*grid.values}:
            both = (Setting(axis, value, grid.axis_rounds) for value in (more, less))
            found.append(verdict(text, f"{axis} {more} minus {less}", *both, measure))
    for t in range(1, grid.rounds + 1):
        told = f"round {t} minus {f'round {t - 1}' if t > 1 else 'the start'}"
        both = (Setting("rounds", str(n), n) for n in (t, t - 1))
        found.append(verdict(f"Round {t} helps", told, *both))
    if grid.rounds >= 3:
        by_round = [figures.get(Setting("rounds", str(t), t), {}) for t in (1, 2, 3)]
        rates = [[row[seed]["win_rate"] for row in by_round] for seed in by_round[0]]
        less = Mean.of((second - first) - (third - second) for first, second, third in rates)
        told = "win rate, gain of round 2 minus gain of round 3"
        found.append(Verdict("Round 3 helps less than round 2", told, "win_rate", less))
    return found
