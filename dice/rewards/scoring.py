"""Rewards of shards of responses, from the source that `score.reward` names.

A folder holds `prompts.jsonl` and `responses/part-*.jsonl`; `scores/part-*.jsonl` is written beside
them, and `scores/dropped-*.jsonl` with what has no score and why. Workers take whole shards.

A source is a module of this package with a class `Source`: `implicit`, `reward_model`, `judge`,
`random`. All of them get the same responses: those that can become part of a pair, within the length
limits, encoded as training will encode them.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dice.errors import StageFailed
from dice.launch import processes
from dice.launch.processes import Workers
from dice.launch.worker import Worker
from dice.models import trust
from dice.recipe.keys import Recipe
from dice.rewards import judge
from dice.rewards.source import READING, Job
from dice.run import files
from dice.run.rows import Dropped, Response, Score

NAMES = {
    "implicit": "implicit rewards",
    "reward_model": "rewards of the reward model",
    "judge": "rewards of the judge",
    "random": "random rewards",
}
WRITTEN = ("part", "dropped", "grades", "tokens")  # what a shard has in scores/ once it is done


def job_of(
    recipe: Recipe, folder: Path, policy: str, reference: str, reward_model: str = "", round: int = 0
) -> Job:
    """The job of scoring the responses of a folder, with the recipe's source of rewards."""
    score = recipe.score
    return Job(
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
        judge=judge.settings(recipe) if score.reward == "judge" else {},
    )


def settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that its rewards depend on, beside models, template, dtype and filters."""
    score = recipe.score
    found = {"reward": score.reward, "cutoff_len": score.cutoff_len}
    if score.reward in ("implicit", "reward_model"):
        found |= {key: getattr(score, key) for key in READING}
    else:
        found["seed"] = recipe.seed
    if score.reward == "judge":
        found |= judge.basis(recipe)
    return found


def workers_of(job: Job) -> Workers:
    """The workers of a job."""
    arguments, gpus_each = [json.dumps(asdict(job))], job.judge.get("gpus_each", 1)
    return Workers("dice.stages.score", Path(job.folder), arguments, job.source.UNIT, gpus_each)


def run_job(job: Job) -> None:
    """Score all shards of a job, with as many workers as there are GPUs.

    Raises BadInput where the input can't be used, StageFailed where a worker broke.
    """
    processes.run_workers(*workers_of(job))
    known = {job.beside(shard, what) for shard in job.shards() for what in WRITTEN}
    for path in (Path(job.folder) / "scores").iterdir():
        if path not in known and not path.name.endswith(files.SEAL):
            files.remove(path)  # of a worker that was killed before it could do so, or of somebody else's


def run_share(worker: Worker, job: Job) -> None:
    """A worker's shards, those that are scored already left alone."""
    written = ("part", "dropped", *(("grades",) if job.reward == "judge" else ()))
    todo = [
        path
        for path in worker.share(job.shards())
        if not all(files.is_shard(job.beside(path, what)) for what in written)
    ]
    counter = worker.counter()
    source = job.source.Source
    counter.expect(source.passes * sum(map(files.count_rows, todo)))
    if todo:
        trust.run_code(job.trust_remote_code)
        source(job, counter).run(todo)


def scored(job: Job) -> Iterator[tuple[Response, Score | Dropped]]:
    """Every response of a finished job with its score, or with why it has none."""
    for shard in job.shards():
        found: dict[tuple[str, int], Score | Dropped] = {}
        for what, kind in (("part", Score), ("dropped", Dropped)):
            rows = files.read_rows(job.beside(shard, what), kind)
            found |= {(row.prompt_id, row.sample): row for row in rows}
        for response in files.read_rows(shard, Response):
            key = response.prompt_id, response.sample
            if key not in found:
                raise StageFailed(f"{job.beside(shard, 'part')}: nothing of prompt {key[0]} sample {key[1]}")
            yield response, found[key]
