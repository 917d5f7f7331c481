"""Rewards of a scalar reward model: the paper's baseline, and whatever the Hub has."""

from pathlib import Path

from dice.inference.load import load_reward_model
from dice.launch.progress import Counter
from dice.rewards.source import Job, Scoring, Usable

UNIT = "rewards"  # what the progress bar counts


class Source(Scoring):
    """What the model gives to a prompt and a response."""

    def __init__(self, job: Job, counter: Counter) -> None:
        super().__init__(job, counter)
        names = ("dtype", "attn_implementation", "quantization_bit", "batch_tokens")
        options = {name: getattr(job, name) for name in names}
        self.model = load_reward_model(job.engine, job.reward_model, job.template, **options)

    def rewards(self, shard: Path, rows: list[Usable]) -> list[float | str]:
        """The rewards; none for what is over the cutoff in the reward model's own tokens."""
        limit = min(self.job.cutoff_len, self.model.longest)
        encoded = [self.model.encode(row.messages, row.response.response) for row in rows]
        short = [ids for ids in encoded if len(ids) <= limit]
        self.counter.add(len(rows) - len(short))
        found = iter(self.model.rewards(short, self.counter.add))
        too_long = f"over {limit:,} tokens for the reward model"
        return [next(found) if len(ids) <= limit else too_long for ids in encoded]
