"""The implicit reward of a model after DPO: r(x, y) = log pi(y|x) - log pi_ref(y|x), in nats.

One model is in memory at a time. The policy goes over all of a worker's shards, and leaves their token ids
and its log-probs behind in `scores/halfway-*.jsonl`. Then the reference reads those ids, and the rewards are
written. So every response is encoded once, and one shard of them is in memory.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dice.errors import BadInput
from dice.inference.load import load_scorer
from dice.launch.progress import Counter
from dice.rewards.source import Scoring, Usable, beside, reading, score_of
from dice.run import files
from dice.run.rows import Logps, TokenRewards
from dice.run.run import Run

CHECKED = 32  # responses of a worker that the scorer reads too where the log-probs are the engine's


class Source(Scoring):
    """Log-probs under two models, and their difference."""

    passes = 2

    def __init__(self, run: Run, t: int, counter: Counter, per_token: bool = False) -> None:
        super().__init__(run, t, counter, per_token)
        self.policy, self.reference = run.policy(t), run.reference(t)
        self.checked = False  # whether the scorer has read some of what the engine knows
        self.scorer = load_scorer(self.recipe.generate.engine, **reading(self.recipe))

    def score(self, shards: list[Path]) -> None:
        """Score shards of responses; what an earlier worker left half done is used."""
        for shard in shards:
            if all(files.is_shard(beside(shard, what)) for what in ("halfway", "dropped")):
                self.counter.add(2 * files.count_rows(shard) - files.count_rows(beside(shard, "halfway")))
            else:
                self._read_by_policy(shard)
        for shard in shards:
            self._read_by_reference(shard)

    def _read_by_policy(self, shard: Path) -> None:
        rows, dropped = self.usable(shard)
        self.counter.add(len(dropped))  # the reference won't see them either
        halfway = [
            Logps(row.prompt_id, row.sample, row.n_chars, row.prompt_ids, row.response_ids, *logps)
            for row, logps in zip(rows, self._policy_logps(shard, rows), strict=True)
        ]
        files.write_shard(beside(shard, "dropped"), dropped)
        files.write_shard(beside(shard, "halfway"), halfway)

    def _policy_logps(self, shard: Path, rows: list[Usable]) -> list[tuple[float, list[float], float | None]]:
        """The policy's log-prob of each response, its tokens' if `per_token`, and the sum once more.

        Once more by whoever it was not taken from: the engine knows all, the scorer reads some in any case.
        """
        by_engine = [row.logp for row in rows]
        if self.recipe.score.policy_logps == "scorer" or self.per_token:
            self.scorer.use(self.policy)
            found = self._logps(shard, rows)
            return [(*logps, engine) for logps, engine in zip(found, by_engine, strict=True)]
        if None in by_engine:
            raise BadInput(
                f"{shard}: its responses have no log-probs, as in earlier versions: score.policy_logps must "
                "be scorer"
            )
        count = min(len(rows), CHECKED) if not self.checked else 0
        if count:
            self.scorer.use(self.policy)
        by_scorer = [total for total, _ in self._logps(shard, rows[:count])] if count else []
        self.checked = True
        self.counter.add(len(rows) - count)
        checks = [*by_scorer, *[None] * (len(rows) - count)]
        return [(logp, [], check) for logp, check in zip(by_engine, checks, strict=True)]

    def _read_by_reference(self, shard: Path) -> None:
        rows = list(files.read_rows(beside(shard, "halfway"), Logps))
        self.scorer.use(self.reference)
        scores, tokens = [], []
        for row, (logp, token_logps) in zip(rows, self._logps(shard, rows), strict=True):
            scores.append(score_of(shard, row, row.logp - logp, (row.logp, logp, row.logp_check)))
            rewards = [ours - theirs for ours, theirs in zip(row.token_logps, token_logps, strict=True)]
            if self.per_token:
                pieces = self.chat.pieces(row.response_ids)
                tokens.append(TokenRewards(row.prompt_id, row.sample, pieces, rewards))
        if self.per_token:
            files.write_rows(beside(shard, "tokens"), tokens)
        files.write_shard(beside(shard, "part"), scores)
        files.remove_shard(beside(shard, "halfway"))

    def _logps(self, shard: Path, rows: Sequence[Usable | Logps]) -> list[tuple[float, list[float]]]:
        """Log-probs of responses under the model in use: the sum of each, and its tokens' if `per_token`."""
        ids = [(row.prompt_ids, row.response_ids) for row in rows]
        try:
            found = self.scorer.token_logps(ids, self.counter.add)
        except BadInput as error:
            raise BadInput(f"{shard}: {error}") from error
        result = []
        for row, logps in zip(rows, found, strict=True):
            total = float(logps.sum(dtype=np.float64))
            if not math.isfinite(total):
                raise BadInput(
                    f"{shard}: prompt {row.prompt_id} sample {row.sample}: its log-prob under "
                    f"{self.scorer.name} is {total}; it must be finite"
                )
            result.append((total, logps.tolist() if self.per_token else []))
        return result
