"""Rewards that know nothing: uniform numbers between 0 and 1, the same for the same seed."""

from pathlib import Path
from random import Random

from dice.recipe.seeds import seed_of
from dice.rewards.source import Scoring, Usable

UNIT = "responses"  # what the progress bar counts


class Source(Scoring):
    """One number for each (seed, round, prompt_id, sample)."""

    def rewards(self, shard: Path, rows: list[Usable]) -> list[float]:
        self.counter.add(len(rows))
        return [self._draw(row.response.prompt_id, row.response.sample) for row in rows]

    def _draw(self, prompt_id: str, sample: int) -> float:
        return Random(seed_of(self.job.seed, self.job.round, f"reward/{prompt_id}/{sample}")).random()
