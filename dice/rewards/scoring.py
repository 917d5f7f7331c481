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
from dice.launch import processes
from dice.launch.processes import Workers
from dice.launch.worker import Worker
from dice.models import remote_code
from dice.recipe.keys import Recipe
from dice.recipe.paths import is_function, resolve
from dice.rewards import judge
from dice.rewards.source import READING, beside, responses_of, source_of
from dice.run import files
from dice.run.digests import file_digest, model_digest
from dice.run.rows import Dropped, Score, UnreadResponse
from dice.run.run import Run, model_path, open_run

WRITTEN = ("part", "dropped", "grades", "tokens")  # what shards have in scores/ once they are done


def settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that its rewards depend on, beside models, template, dtype and filters."""
    score = recipe.score
    found = {"reward": score.reward, "cutoff_len": score.cutoff_len}
    if score.reward in ("implicit", "reward_model"):
        found |= {key: getattr(score, key) for key in READING}
    else:
        found["seed"] = recipe.seed
    # Left out where they have their defaults, as in runs of earlier versions.
    found |= score.said("policy_logps", "normalize", "average_rounds", "reference", "consistency")
    if score.reward == "judge":
        found |= judge.basis(recipe)
    return found


def inputs(run: Run, t: int) -> dict[str, str]:
    """Digests of what rewards come from, by name."""
    score = run.recipe.score
    found = {"policy": model_digest(run.policy(t))}  # of other rewards than implicit ones: its tokenizer
    if score.reward == "implicit":
        found["reference"] = model_digest(run.reference(t))
        found |= {f"model of round {end}": model_digest(run.model(end)) for end in run.reads(t)[2:]}
    if score.reward == "reward_model":
        found["reward model"] = model_digest(run.reward_model())
    if score.reward == "judge" and score.judge != "policy" and judge.is_local(score.judge):
        found["judge"] = model_digest(model_path(score.judge))
    if is_function(score.reward):
        found["reward function"] = file_digest(resolve(score.reward.rpartition(":")[0]))
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
    counter.expect(source.passes(run, t) * sum(map(files.count_rows, todo)))
    if todo:
        remote_code.allow(run.recipe.trust_remote_code)
        source(run, t, counter, per_token).score(todo)


def work(worker: Worker, run_dir: str, t: str, *extra: str) -> None:
    """A worker's part of round t; the word `per_token` asks for the rewards of tokens."""
    score_shards(worker, open_run(run_dir), int(t), "per_token" in extra)


def workers_of(run: Run, t: int, per_token: bool = False, part: str = "workers") -> Workers:
    """The workers that score the responses in the folder of round t."""
    recipe = run.recipe
    arguments = [str(run.path), str(t), *(["per_token"] if per_token else [])]
    samples_here = recipe.score.reward == "judge" and judge.is_local(recipe.score.judge)
    gpus_each = recipe.generate.tensor_parallel if samples_here else 1
    unit = source_of(recipe).counted
    return Workers(__name__, run.round_dir(t), arguments, unit, gpus_each, part, name="score")


def score_round(run: Run, t: int, per_token: bool = False, part: str = "workers") -> None:
    """Score the responses in the folder of round t, with as many workers as there are GPUs.

    Raises BadInput where the input can't be used, StageFailed where a worker broke.
    """
    folder = run.round_dir(t)
    processes.run_workers(*workers_of(run, t, per_token, part))
    known = {beside(shard, what) for shard in responses_of(run, t) for what in WRITTEN}
    for path in (folder / "scores").iterdir():
        if path not in known and not path.name.endswith(files.SEAL):
            files.remove(path)  # of a worker that was killed before it could do so, or of somebody else's


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
