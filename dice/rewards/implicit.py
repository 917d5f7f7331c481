"""The implicit reward of a model after DPO: r(x, y) = log pi(y|x) - log pi_ref(y|x), in nats.

One model is in memory at a time. The policy goes over all of a worker's shards, and leaves their token ids
and its log-probs behind in `scores/halfway-*.jsonl`. Then the reference reads those ids, and the rewards are
written. So every response is encoded once, and one shard of them is in memory. With `score.consistency`
the models of the round before read the ids, too, and leave their log-probs there as well.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dice.errors import BadInput
from dice.inference.load import load_scorer
from dice.launch import devices
from dice.launch.progress import Counter
from dice.models import trainer
from dice.rewards.source import Scoring, Usable, beside, reading, score_of
from dice.run import files
from dice.run.rows import Logps, Score, TokenRewards
from dice.run.run import Run

CHECKED = 32  # responses of a worker that the scorer reads too where the log-probs are the engine's


class Source(Scoring):
    """Log-probs under two models, and their difference."""

    def __init__(self, run: Run, t: int, counter: Counter, per_token: bool = False) -> None:
        super().__init__(run, t, counter, per_token)
        self.run = run
        self.policy, *self.others = map(run.model, run.reads(t))
        self.checked = False  # whether the scorer has read some of what the engine knows
        config = trainer.on_device(self.recipe.train.args, devices.gpu_count() > 0)
        options = reading(self.recipe) | trainer.precision(config)  # so training begins with rewards of 0
        self.scorer = load_scorer(self.recipe.generate.engine, **options)

    @staticmethod
    def passes(run: Run, t: int) -> int:
        return len(run.reads(t))

    def score(self, shards: list[Path]) -> None:
        """Score shards of responses; what an earlier worker left half done is used."""
        for shard in shards:
            if all(files.is_shard(beside(shard, what)) for what in ("halfway", "dropped")):
                still = len(self.others) * files.count_rows(beside(shard, "halfway"))
                self.counter.add((1 + len(self.others)) * files.count_rows(shard) - still)
            else:
                self._read_by_policy(shard)
        for number, model in enumerate(self.others):
            for shard in shards:
                self._read_by_other(shard, number, model)

    def _read_by_policy(self, shard: Path) -> None:
        rows, dropped = self.usable(shard)
        self.counter.add(len(self.others) * len(dropped))  # the others won't see them either
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

    def _read_by_other(self, shard: Path, number: int, model: str) -> None:
        """The next model's pass over a shard; scores are written in the last one."""
        rows = list(files.read_rows(beside(shard, "halfway"), Logps))
        if rows and len(rows[0].others) > number:  # an earlier worker came so far
            self.counter.add(len(rows))
            return
        self.scorer.use(model)
        found = self._logps(shard, rows)
        if number < len(self.others) - 1:
            for row, (logp, _) in zip(rows, found, strict=True):
                row.others.append(logp)
            files.write_shard(beside(shard, "halfway"), rows)
            return
        scores, tokens = [], []
        for row, (logp, token_logps) in zip(rows, found, strict=True):
            scores.append(self._score(shard, row, [*row.others, logp]))
            rewards = [ours - theirs for ours, theirs in zip(row.token_logps, token_logps, strict=True)]
            if self.per_token:
                pieces = self.chat.pieces(row.response_ids)
                tokens.append(TokenRewards(row.prompt_id, row.sample, pieces, rewards))
        if self.per_token:
            files.write_rows(beside(shard, "tokens"), tokens)
        files.write_shard(beside(shard, "part"), scores)
        files.remove_shard(beside(shard, "halfway"))

    def _score(self, shard: Path, row: Logps, others: list[float]) -> Score:
        """The row to write, from the log-probs under the models besides the policy."""
        score, reference = self.recipe.score, self.run.ends(self.t)[1]
        logps = dict(zip(self.run.reads(self.t), (row.logp, *others), strict=True))
        length = len(row.response_ids) if score.normalize == "tokens" else 1
        reward = (row.logp - logps[reference]) / self.run.averaged(self.t) / length
        made = score_of(shard, row, reward, (row.logp, logps[reference], row.logp_check))
        if score.consistency and self.t > 1:
            policy, reference = self.run.ends(self.t - 1)
            made.reward_before = (logps[policy] - logps[reference]) / length
        return made

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
