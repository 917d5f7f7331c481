"""Rewards of shards of responses, from the source that `score.reward` names.

A folder holds `prompts.jsonl` and `responses/part-*.jsonl`; `scores/part-*.jsonl` is written beside
them, and `scores/dropped-*.jsonl` with what has no score and why. Workers take whole shards.

A source is a module of this package with a class `Source`: `implicit`, `reward_model`, `judge`,
`random`. All of them get the same responses: those that can become part of a pair, within the length
limits, encoded as training will encode them.
"""

import importlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dice import launch, store, trust
from dice.console import Counter
from dice.engines import load_chat
from dice.errors import BadInput, StageFailed
from dice.recipe import Recipe
from dice.reference import response_hash
from dice.schema import Dropped, Message, Prompt, Response, Score
from dice.worker import Worker


@dataclass(frozen=True)
class Job:
    """What workers need to know. Everything from `engine` on is the recipe's."""

    folder: str
    policy: str
    reference: str
    reward_model: str
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
    reward: str = "implicit"
    seed: int = 0
    round: int = 0  # seeds depend on it
    judge: dict[str, Any] = field(default_factory=dict)  # what it needs to know
    per_token: bool = False  # also write scores/tokens-*.jsonl, where the source knows of tokens

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        folder: Path,
        policy: str,
        reference: str,
        reward_model: str = "",
        round: int = 0,
    ) -> "Job":
        score = recipe.score
        return cls(
            folder=str(folder),
            policy=policy,
            reference=reference,
            reward_model=reward_model,
            engine=recipe.generate.engine,
            template=recipe.template,
            dtype=recipe.dtype,
            attn_implementation=score.attn_implementation,
            quantization_bit=score.quantization_bit,
            batch_tokens=score.batch_tokens,
            cutoff_len=score.cutoff_len,
            min_chars=recipe.pair.min_chars,
            max_chars=recipe.pair.max_chars,
            trust_remote_code=recipe.trust_remote_code,
            reward=score.reward,
            seed=recipe.seed,
            round=round,
            judge=_judge_settings(recipe) if score.reward == "judge" else {},
        )

    @property
    def source(self) -> Any:
        """The module that the rewards come from."""
        return importlib.import_module(f"dice.rewards.{self.reward}")

    def shards(self) -> list[Path]:
        return store.shards(Path(self.folder) / "responses")

    def beside(self, shard: Path, what: str) -> Path:
        """Where something that belongs to a shard of responses lies: `part` are its scores."""
        return Path(self.folder) / "scores" / shard.name.replace("part", what)


NAMES = {
    "implicit": "implicit rewards",
    "reward_model": "rewards of the reward model",
    "judge": "rewards of the judge",
    "random": "random rewards",
}
WRITTEN = ("part", "dropped", "grades", "tokens")  # what a shard has in scores/ once it is done
READING = ("batch_tokens", "attn_implementation", "quantization_bit")  # how models are loaded and read


def settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that its rewards depend on, beside models, template, dtype and filters."""
    score = recipe.score
    found = {"reward": score.reward, "cutoff_len": score.cutoff_len}
    if score.reward in ("implicit", "reward_model"):
        found |= {key: getattr(score, key) for key in READING}
    else:
        found["seed"] = recipe.seed
    if score.reward == "judge":
        from dice.rewards import judge

        found |= judge.basis(recipe)
    return found


def _judge_settings(recipe: Recipe) -> dict[str, Any]:
    from dice.rewards import judge

    return judge.settings(recipe)


def unusable(response: Response, job: Job) -> str | None:
    """Why a response is not scored, as far as its text tells, or None."""
    if response.finish_reason == "length":
        return "cut off at the length limit"
    if response.n_chars < job.min_chars:
        return f"under {job.min_chars} characters"
    if response.n_chars > job.max_chars:
        return f"over {job.max_chars:,} characters"
    return None


class Usable(NamedTuple):
    """A response that gets a reward, with its prompt, as texts and as the policy's token ids."""

    response: Response
    messages: list[Message]
    prompt_ids: list[int]
    response_ids: list[int]


class Scoring:
    """A worker's part of a job: its responses and where their scores go. Sources say what the rewards are.

    `passes` is how often a source looks at a response.
    """

    passes = 1

    def __init__(self, job: Job, counter: Counter) -> None:
        self.job, self.counter = job, counter
        prompts = store.read_rows(Path(job.folder) / "prompts.jsonl", Prompt)
        self.prompts = {prompt.prompt_id: prompt.messages for prompt in prompts}
        self.chat = load_chat(job.engine, job.policy, job.template)

    def rewards(self, shard: Path, rows: list[Usable]) -> Sequence[float | str]:
        """The reward of each response, or why it gets none; `self.counter` is told of each."""
        raise NotImplementedError

    def run(self, shards: list[Path]) -> None:
        """Score shards of responses."""
        for shard in shards:
            kept, dropped = self.usable(shard)
            scores = []
            for row, reward in zip(kept, self.rewards(shard, kept), strict=True):
                if isinstance(reward, str):
                    dropped.append(Dropped(row.response.prompt_id, row.response.sample, reward))
                else:
                    scores.append(self.score(shard, row, reward))
            self.write(shard, scores, dropped)

    def usable(self, shard: Path) -> tuple[list[Usable], list[Dropped]]:
        """The responses of a shard in their order, and the others."""
        kept, dropped = [], []
        for response in store.read_rows(shard, Response):
            reason = unusable(response, self.job)
            if not reason:
                messages = self._messages(response, shard)
                row = Usable(response, messages, *self.chat.encode(messages, response.response))
                if len(row.prompt_ids) + len(row.response_ids) <= self.job.cutoff_len:
                    kept.append(row)
                    continue
                reason = f"over {self.job.cutoff_len:,} tokens with their prompt"
            dropped.append(Dropped(response.prompt_id, response.sample, reason))
        self.counter.add(len(dropped))
        return kept, dropped

    def score(
        self, shard: Path, row: Usable, reward: float, logps: tuple[float, float] | None = None
    ) -> Score:
        """The row to write. Raises BadInput for a reward that is not finite."""
        response = row.response
        if not math.isfinite(reward):
            where = f"{shard}: prompt {response.prompt_id} sample {response.sample}"
            raise BadInput(f"{where}: its reward is {reward}; it must be finite")
        return Score(
            prompt_id=response.prompt_id,
            sample=response.sample,
            ids_hash=response_hash(row.prompt_ids, row.response_ids),
            n_chars=response.n_chars,
            n_tokens=len(row.response_ids),
            logp_policy=logps[0] if logps else None,
            logp_ref=logps[1] if logps else None,
            reward=reward,
        )

    def write(self, shard: Path, scores: list[Score], dropped: list[Dropped]) -> None:
        """Write a shard: its scores come last, since they say that it is done."""
        store.write_shard(self.job.beside(shard, "dropped"), dropped)
        store.write_shard(self.job.beside(shard, "part"), scores)

    def _messages(self, response: Response, shard: Path) -> list[Message]:
        try:
            return self.prompts[response.prompt_id]
        except KeyError:
            raise BadInput(f"{shard}: prompt {response.prompt_id} is not in prompts.jsonl") from None


def run_job(job: Job) -> None:
    """Score all shards of a job, with as many workers as there are GPUs.

    Raises BadInput where the input can't be used, StageFailed where a worker broke.
    """
    gpus_each = job.judge.get("gpus_each", 1)
    launch.run_workers("score", Path(job.folder), [json.dumps(asdict(job))], job.source.UNIT, gpus_each)
    known = {job.beside(shard, what) for shard in job.shards() for what in WRITTEN}
    for path in (Path(job.folder) / "scores").iterdir():
        if path not in known and not path.name.endswith(store.SEAL):
            store.remove(path)  # of a worker that was killed before it could do so, or of somebody else's


def run_share(worker: Worker, job: Job) -> None:
    """A worker's shards, those that are scored already left alone."""
    written = ("part", "dropped", *(("grades",) if job.reward == "judge" else ()))
    todo = [
        path
        for path in worker.share(job.shards())
        if not all(store.is_shard(job.beside(path, what)) for what in written)
    ]
    counter = worker.counter()
    source = job.source.Source
    counter.expect(source.passes * sum(map(store.count_rows, todo)))
    if todo:
        trust.run_code(job.trust_remote_code)
        source(job, counter).run(todo)


def scored(job: Job) -> Iterator[tuple[Response, Score | Dropped]]:
    """Every response of a finished job with its score, or with why it has none."""
    for shard in job.shards():
        found: dict[tuple[str, int], Score | Dropped] = {}
        for what, kind in (("part", Score), ("dropped", Dropped)):
            rows = store.read_rows(job.beside(shard, what), kind)
            found |= {(row.prompt_id, row.sample): row for row in rows}
        for response in store.read_rows(shard, Response):
            key = response.prompt_id, response.sample
            if key not in found:
                raise StageFailed(f"{job.beside(shard, 'part')}: nothing of prompt {key[0]} sample {key[1]}")
            yield response, found[key]
