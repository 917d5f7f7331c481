"""The paper's claims, each held against the grid's figures."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from dice.tools.ablation.grid import Grid
from dice.tools.ablation.results import Figures, Mean, Place, difference


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
)


@dataclass(frozen=True)
class Verdict:
    """A claim, the difference that it says is above zero, in words with its unit, and what was found."""

    claim: str
    measured: str
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

    @property
    def scale(self) -> tuple[int, str]:
        """What to multiply by to show it, and the unit behind it."""
        return (1, "") if self.measured.startswith("characters") else (100, "%")


def verdicts(figures: Figures, grid: Grid) -> list[Verdict]:
    """Every claim that the grid has something to say about."""
    found = []
    for claim in CLAIMS:
        if claim.axis in grid.axes:
            more, less = (Place(claim.axis, value, grid.axis_rounds) for value in (claim.more, claim.less))
            what = "win rate" if claim.measure == "win_rate" else "characters"
            told = f"{what}, {claim.axis} {claim.more} minus {claim.less}"
            found.append(Verdict(claim.text, told, difference(figures, more, less, claim.measure)))
    return found + _of_rounds(figures, grid.rounds)


def _of_rounds(figures: Figures, rounds: int) -> list[Verdict]:
    """That every round helps, and that the third one helps less than the second."""
    found = []
    for t in range(1, rounds + 1):
        now, before = Place("rounds", str(t), t), Place("rounds", str(t - 1), t - 1)
        told = f"win rate, round {t} minus {f'round {t - 1}' if t > 1 else 'the start'}"
        found.append(Verdict(f"Round {t} helps", told, difference(figures, now, before, "win_rate")))
    if rounds >= 3:
        places = [figures.get(Place("rounds", str(t), t), {}) for t in (1, 2, 3)]
        rates = [[place[seed]["win_rate"] for place in places] for seed in places[0]]
        less = Mean.of((second - first) - (third - second) for first, second, third in rates)
        told = "win rate, gain of round 2 minus gain of round 3"
        found.append(Verdict("Round 3 helps less than round 2", told, less))
    return found
