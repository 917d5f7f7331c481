"""Rewards of a scalar reward model: the paper's baseline, and whatever the Hub has."""

import contextlib
from pathlib import Path

from dice.errors import BadInput
from dice.inference.load import load_reward_model
from dice.launch.progress import Counter
from dice.rewards.source import Scoring, Usable, reading
from dice.run.run import Run

NO_TEXT = "refused by the reward model's chat template"


class Source(Scoring):
    """What the model gives to a prompt and a response."""

    def __init__(self, run: Run, t: int, counter: Counter, per_token: bool = False) -> None:
        super().__init__(run, t, counter, per_token)
        engine, name = self.recipe.generate.engine, run.reward_model()
        self.model = load_reward_model(engine, name, self.recipe.encoding, **reading(self.recipe))

    def rewards(self, shard: Path, rows: list[Usable]) -> list[float | str]:
        """The rewards; none for what its template refuses, and what is over the cutoff in its own tokens."""
        limit = min(self.recipe.score.cutoff_len, self.model.longest)
        encoded = [*map(self._row, rows)]
        short = [ids for ids in encoded if ids is not None and len(ids) <= limit]
        self.counter.add(len(rows) - len(short))
        found = iter(self.model.rewards(short, self.counter.add))
        too_long = f"over {limit:,} tokens for the reward model"
        return [NO_TEXT if ids is None else next(found) if len(ids) <= limit else too_long for ids in encoded]

    def _row(self, row: Usable) -> list[int] | None:
        """Token ids of prompt and response; None where the chat template refuses such turns (a system's)."""
        with contextlib.suppress(BadInput):
            return self.model.encode(row.messages, row.response)
        return None
