"""The implicit reward of a model after DPO: r(x, y) = log pi(y|x) - log pi_ref(y|x), in nats.

One model is in memory at a time: the policy goes over all of a worker's shards and leaves its
log-probs behind, then the reference does and the rewards are written.
"""

import math
from pathlib import Path

import numpy as np

from dice.errors import BadInput
from dice.inference.load import load_scorer
from dice.launch.progress import Counter
from dice.rewards.source import Job, Scoring, Usable
from dice.run import files
from dice.run.rows import Logps, TokenRewards

UNIT = "log-probs"  # what the progress bar counts
Key = tuple[str, int]  # (prompt_id, sample)


class Source(Scoring):
    """Log-probs under two models, and their difference."""

    passes = 2

    def __init__(self, job: Job, counter: Counter) -> None:
        super().__init__(job, counter)
        names = ("dtype", "attn_implementation", "quantization_bit", "batch_tokens")
        self.scorer = load_scorer(job.engine, **{name: getattr(job, name) for name in names})

    def run(self, shards: list[Path]) -> None:
        """Score shards of responses; what an earlier worker left half done is used."""
        halves = {shard: self.job.beside(shard, "policy") for shard in shards}
        for shard, half in halves.items():
            if files.is_shard(half):
                self.counter.add(files.count_rows(shard))
                continue
            self.scorer.use(self.job.policy)
            files.write_shard(half, self._logps(shard, self.usable(shard)[0]))
        for shard, half in halves.items():
            self.scorer.use(self.job.reference)
            policy = {(row.prompt_id, row.sample): row for row in files.read_rows(half, Logps)}
            self._write(shard, policy)
            files.remove_shard(half)

    def _logps(self, shard: Path, rows: list[Usable]) -> list[Logps]:
        """Log-probs of responses under the model in use."""
        found = self.scorer.token_logps(
            [(row.prompt_ids, row.response_ids) for row in rows], self.counter.add
        )
        result = []
        for row, logps in zip(rows, found, strict=True):
            total, response = float(logps.sum(dtype=np.float64)), row.response
            if not math.isfinite(total):
                raise BadInput(
                    f"{shard}: prompt {response.prompt_id} sample {response.sample}: its log-prob under "
                    f"{self.scorer.name} is {total}; it must be finite"
                )
            tokens = logps.tolist() if self.job.per_token else []
            result.append(Logps(response.prompt_id, response.sample, len(logps), total, tokens))
        return result

    def _write(self, shard: Path, policy: dict[Key, Logps]) -> None:
        """The scores of a shard, from the policy's log-probs and those of the model in use."""
        rows, dropped = self.usable(shard)
        scores, tokens = [], []
        for row, theirs in zip(rows, self._logps(shard, rows), strict=True):
            ours = policy[theirs.prompt_id, theirs.sample]
            logps = ours.logp, theirs.logp
            scores.append(self.score(shard, row, ours.logp - theirs.logp, logps))
            if self.job.per_token:
                tokens.append(self._token_rewards(row, ours, theirs))
        if self.job.per_token:
            files.write_rows(self.job.beside(shard, "tokens"), tokens)
        self.write(shard, scores, dropped)

    def _token_rewards(self, row: Usable, ours: Logps, reference: Logps) -> TokenRewards:
        rewards = [a - b for a, b in zip(ours.token_logps, reference.token_logps, strict=True)]
        pieces = self.chat.pieces(row.response_ids)
        return TokenRewards(row.response.prompt_id, row.response.sample, pieces, rewards)
