"""Stage 1.2: the reward of every response of a round; by default the implicit one (the paper's section 3)."""

import json
from collections import Counter as Tally
from typing import Any

from dice.errors import BadInput
from dice.launch.worker import Worker
from dice.rewards.judge import is_local, tally
from dice.rewards.scoring import NAMES, job_of, run_job, run_share, scored, settings, workers_of
from dice.rewards.source import Job
from dice.run.digests import folder_digest, model_digest
from dice.run.manifests import makers
from dice.run.rows import Dropped, Score
from dice.run.run import Run, model_path
from dice.run.stage import Outcome, Stage
from dice.stages import train_reward_model


def work(worker: Worker, job: str) -> None:
    """A worker's part of a Job, which comes as JSON."""
    run_share(worker, Job(**json.loads(job)))


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder, score = run.round_dir(t), run.recipe.score
    digests = {
        "responses": folder_digest(folder / "responses"),
        "policy": model_digest(run.policy(t)),  # of other rewards: its tokenizer
    }
    if score.reward == "implicit":
        digests["reference"] = model_digest(run.reference(t))
    if score.reward == "reward_model":
        digests["reward model"] = model_digest(train_reward_model.model_of(run))
    if score.reward == "judge" and score.judge != "policy" and is_local(score.judge):
        digests["judge"] = model_digest(model_path(score.judge))
    return digests


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    limits = {"min_chars": recipe.pair.min_chars, "max_chars": recipe.pair.max_chars}
    own = {"template": recipe.template, "dtype": recipe.dtype}
    own["columns"] = ", ".join(Score.__struct_fields__)  # scores of an earlier version are made again
    return {**own, "score": settings(recipe), "pair": limits}


def _job(run: Run, t: int) -> Job:
    reward_model = train_reward_model.model_of(run)
    return job_of(run.recipe, run.round_dir(t), run.policy(t), run.reference(t), reward_model, t)


def _run(run: Run, t: int) -> Outcome:
    recipe, job = run.recipe, _job(run, t)
    run_job(job)
    dropped: Tally[str] = Tally()
    rows = tokens = 0
    total = 0.0
    for _, score in scored(job):
        if isinstance(score, Dropped):
            dropped[score.reason] += 1
            continue
        rows, tokens, total = rows + 1, tokens + score.n_tokens, total + score.reward
    grades = tally(job) if recipe.score.reward == "judge" else {}
    told = ", ".join(f"{count:,} {what}" for what, count in grades.items())
    if not rows:
        raise BadInput(f"{job.folder}: no response can be scored ({told or dict(dropped)})")
    return Outcome(
        rows_in=rows + dropped.total(),
        rows_out=rows,
        summary=f"{rows:,} {NAMES[job.reward]}, {total / rows:+.2f} {recipe.score.unit} on average",
        dropped=dict(dropped),
        figures={"tokens": tokens, "mean_reward": total / rows, **({"grades": grades} if grades else {})},
        notes=[f"grades: {told}"] if grades else [],
    )


STAGE = Stage(
    "score",
    _inputs,
    _settings,
    outputs=("scores",),
    run=_run,
    needs=lambda run, t: [("generate", t), *makers(t - 1, t - 2), *train_reward_model.maker(run.recipe)],
    parts=("scores/*.jsonl",),
    launches=lambda run, t: [workers_of(_job(run, t)).launch()],
)
