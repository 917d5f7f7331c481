"""Rewards that know nothing: uniform numbers between 0 and 1, the same for the same seed."""

from pathlib import Path
from random import Random

from dice.recipe.seeds import seed_of
from dice.rewards.source import Scoring, Usable


class Source(Scoring):
    """One number for each (seed, round, prompt_id, sample)."""

    def rewards(self, shard: Path, rows: list[Usable]) -> list[float]:
        self.counter.add(len(rows))
        names = (f"reward/{row.prompt_id}/{row.sample}" for row in rows)
        return [Random(seed_of(self.recipe.seed, self.t, name)).random() for name in names]
