"""Rewards of the responses of a round, from the source that `score.reward` names.

A round's folder holds `prompts.jsonl` and `responses/part-*.jsonl`; `scores/part-*.jsonl` is written beside
them, and `scores/dropped-*.jsonl` with what has no score and why. Workers take whole shards.

A source is a module of this package with a class `Source`, and a line of `SOURCES`. All of them get the
same responses: those that can become part of a pair, within the length limits, encoded as training will
encode them.
"""

import importlib
from collections.abc import Iterator
from typing import Any

from dice.errors import StageFailed
from dice.launch.worker import Worker
from dice.models import remote_code
from dice.recipe.keys import Recipe
from dice.rewards import judge
from dice.rewards.source import READING, beside, responses_of, source_of
from dice.run import files
from dice.run.rows import Dropped, Score, UnreadResponse
from dice.run.run import Run


def settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that its rewards depend on, beside models, template, dtype and filters."""
    score = recipe.score
    found = {"reward": score.reward, "cutoff_len": score.cutoff_len}
    if score.reward in ("implicit", "reward_model"):
        found |= {key: getattr(score, key) for key in READING}
    else:
        found["seed"] = recipe.seed
    if score.policy_logps != "scorer":  # else left out, as in runs of earlier versions
        found["policy_logps"] = score.policy_logps
    if score.reward == "judge":
        found |= judge.basis(recipe)
    return found


def score_shards(worker: Worker, run: Run, t: int, per_token: bool = False) -> None:
    """Score a worker's shards of round t; those that are scored already are left alone."""
    source = importlib.import_module(f"dice.rewards.{source_of(run.recipe).module}").Source
    todo = [
        shard
        for shard in worker.share(responses_of(run, t))
        if not all(files.is_shard(beside(shard, what)) for what in source.written)
    ]
    counter = worker.counter()
    counter.expect(source.passes * sum(map(files.count_rows, todo)))
    if todo:
        remote_code.allow(run.recipe.trust_remote_code)
        source(run, t, counter, per_token).score(todo)


def scored(run: Run, t: int) -> Iterator[Score | Dropped]:
    """What became of every response of a round that has been scored, in the order of the responses."""
    for shard in responses_of(run, t):
        found: dict[tuple[str, int], Score | Dropped] = {}
        for what, kind in (("part", Score), ("dropped", Dropped)):
            rows = files.read_rows(beside(shard, what), kind)
            found |= {(row.prompt_id, row.sample): row for row in rows}
        for response in files.read_rows(shard, UnreadResponse):
            key = response.prompt_id, response.sample
            if key not in found:
                raise StageFailed(f"{beside(shard, 'part')}: nothing of prompt {key[0]} sample {key[1]}")
            yield found[key]
