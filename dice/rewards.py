"""Implicit rewards of shards of responses: r(x, y) = log pi(y|x) - log pi_ref(y|x), in nats.

A folder holds `prompts.jsonl` and `responses/part-*.jsonl`; `scores/part-*.jsonl` is written beside
them. Workers take whole shards, and one model is in memory at a time: the policy goes over all of a
worker's shards and leaves its log-probs behind, then the reference does and the rewards are written.

Responses that can't become part of a pair are dropped before they are scored, counted by reason.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dice import launch, store, trust
from dice.console import Counter
from dice.engines import load_chat, load_scorer
from dice.errors import BadInput
from dice.recipe import Recipe
from dice.reference import response_hash
from dice.schema import Logps, Prompt, Response, Score, TokenRewards
from dice.worker import Worker

Key = tuple[str, int]  # (prompt_id, sample)


@dataclass(frozen=True)
class Job:
    """What workers need to know. `engine`, `template` and the rest are the recipe's."""

    folder: str
    policy: str
    reference: str
    engine: str
    template: str
    dtype: str
    attn_implementation: str
    quantization_bit: int | None
    batch_tokens: int | str
    cutoff_len: int  # tokens of prompt plus response
    min_chars: int
    max_chars: int
    trust_remote_code: bool = False
    per_token: bool = False  # also write scores/tokens-*.jsonl

    @classmethod
    def of(cls, recipe: Recipe, folder: Path, policy: str, reference: str) -> "Job":
        score = recipe.score
        return cls(
            folder=str(folder),
            policy=policy,
            reference=reference,
            engine=recipe.generate.engine,
            template=recipe.template,
            dtype=recipe.dtype,
            attn_implementation=score.attn_implementation,
            quantization_bit=score.quantization_bit,
            batch_tokens=score.batch_tokens,
            cutoff_len=score.cutoff_len,
            trust_remote_code=recipe.trust_remote_code,
            min_chars=recipe.pair.min_chars,
            max_chars=recipe.pair.max_chars,
        )

    def shards(self) -> list[Path]:
        return store.shards(Path(self.folder) / "responses")

    def beside(self, shard: Path, what: str) -> Path:
        """Where something that belongs to a shard of responses lies: `part` are its scores."""
        return Path(self.folder) / "scores" / shard.name.replace("part", what)


def unusable(response: Response, job: Job) -> str | None:
    """Why a response is not scored, as far as its text tells, or None."""
    if response.finish_reason == "length":
        return "cut off at the length limit"
    if response.n_chars < job.min_chars:
        return f"under {job.min_chars} characters"
    if response.n_chars > job.max_chars:
        return f"over {job.max_chars:,} characters"
    return None


class Scoring:
    """A worker's part of a job."""

    def __init__(self, job: Job, counter: Counter) -> None:
        self.job, self.counter = job, counter
        prompts = store.read_rows(Path(job.folder) / "prompts.jsonl", Prompt)
        self.prompts = {prompt.prompt_id: prompt.messages for prompt in prompts}
        trust.run_code(job.trust_remote_code)
        self.chat = load_chat(job.engine, job.policy, job.template)
        names = ("dtype", "attn_implementation", "quantization_bit", "batch_tokens")
        self.scorer = load_scorer(job.engine, **{name: getattr(job, name) for name in names})

    def run(self, shards: list[Path]) -> None:
        """Score shards of responses; what an earlier worker left half done is used."""
        halves = {shard: self.job.beside(shard, "policy") for shard in shards}
        for shard, half in halves.items():
            if half.exists():
                self.counter.add(store.count_rows(shard))
                continue
            self.scorer.use(self.job.policy)
            store.write_rows(half, (logps for _, logps in self._logps(shard)))
        for shard, half in halves.items():
            self.scorer.use(self.job.reference)
            policy = {(row.prompt_id, row.sample): row for row in store.read_rows(half, Logps)}
            self._write(shard, policy)
            store.remove(half)

    def _logps(self, shard: Path) -> Iterator[tuple[Response, Logps]]:
        """The usable responses of a shard in their order, with log-probs under the model in use."""
        kept, rows, skipped = [], [], 0
        for response in store.read_rows(shard, Response):
            if not unusable(response, self.job):
                encoded = self.chat.encode(self._messages(response, shard), response.response)
                if sum(map(len, encoded)) <= self.job.cutoff_len:
                    kept.append((response, response_hash(*encoded)))
                    rows.append(encoded)
                    continue
            skipped += 1
        self.counter.add(skipped)
        found = self.scorer.token_logps(rows, self.counter.add)
        for (response, ids_hash), logps in zip(kept, found, strict=True):
            total = float(logps.sum(dtype=np.float64))
            if not math.isfinite(total):
                raise BadInput(
                    f"{shard}: prompt {response.prompt_id} sample {response.sample}: its log-prob under "
                    f"{self.scorer.name} is {total}; it must be finite"
                )
            tokens = logps.tolist() if self.job.per_token else []
            yield response, Logps(response.prompt_id, response.sample, ids_hash, len(logps), total, tokens)

    def _messages(self, response: Response, shard: Path) -> list[Any]:
        try:
            return self.prompts[response.prompt_id]
        except KeyError:
            raise BadInput(f"{shard}: prompt {response.prompt_id} is not in prompts.jsonl") from None

    def _write(self, shard: Path, policy: dict[Key, Logps]) -> None:
        """The scores of a shard, from the policy's log-probs and those of the model in use."""
        scores, tokens = [], []
        for response, reference in self._logps(shard):
            ours = policy[response.prompt_id, response.sample]
            scores.append(
                Score(
                    prompt_id=response.prompt_id,
                    sample=response.sample,
                    ids_hash=ours.ids_hash,
                    n_chars=response.n_chars,
                    n_tokens=ours.n_tokens,
                    logp_policy=ours.logp,
                    logp_ref=reference.logp,
                    reward=ours.logp - reference.logp,
                )
            )
            if self.job.per_token:
                tokens.append(self._token_rewards(response, ours, reference))
        if self.job.per_token:
            store.write_rows(self.job.beside(shard, "tokens"), tokens)
        store.write_rows(self.job.beside(shard, "part"), scores)

    def _token_rewards(self, response: Response, ours: Logps, reference: Logps) -> TokenRewards:
        ids = self.chat.encode(self.prompts[response.prompt_id], response.response)[1]
        rewards = [a - b for a, b in zip(ours.token_logps, reference.token_logps, strict=True)]
        return TokenRewards(response.prompt_id, response.sample, self.chat.pieces(ids), rewards)


def run_job(job: Job) -> None:
    """Score all shards of a job, with as many workers as there are GPUs.

    Raises BadInput where the input can't be used, StageFailed where a worker broke.
    """
    launch.run_workers("score", Path(job.folder), [json.dumps(asdict(job))], "log-probs")
    for shard in job.shards():  # of a worker that was killed before it could do so
        store.remove(job.beside(shard, "policy"))


def run_share(worker: Worker, job: Job) -> None:
    """A worker's shards, those that are scored already left alone."""
    todo = [path for path in worker.share(job.shards()) if not job.beside(path, "part").exists()]
    counter = worker.counter()
    counter.expect(2 * sum(map(store.count_rows, todo)))
    if todo:
        Scoring(job, counter).run(todo)


def scored(job: Job) -> Iterator[tuple[Response, Score | None]]:
    """Every response of a finished job with its score, or None where it was dropped."""
    for shard in job.shards():
        rows = store.read_rows(job.beside(shard, "part"), Score)
        scores = {(row.prompt_id, row.sample): row for row in rows}
        for response in store.read_rows(shard, Response):
            yield response, scores.get((response.prompt_id, response.sample))


def why_dropped(response: Response, job: Job) -> str:
    """The reason under which a response without a score is counted."""
    return unusable(response, job) or f"over {job.cutoff_len:,} tokens with their prompt"
