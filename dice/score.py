"""Stage 1.2: the implicit reward of every response of a round, in nats (section 3 of the paper)."""

import json
from collections import Counter as Tally
from dataclasses import asdict
from typing import Any

from dice.digests import folder_digest, model_digest
from dice.errors import BadInput
from dice.manifests import makers
from dice.rewards import Job, run_job, run_share, scored, why_dropped
from dice.schema import Score
from dice.stage import Outcome, Stage
from dice.store import Run
from dice.worker import Worker


def work(worker: Worker, job: str) -> None:
    """A worker's part of a Job, which comes as JSON."""
    run_share(worker, Job(**json.loads(job)))


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder = run.round_dir(t)
    return {
        "responses": folder_digest(folder / "responses"),
        "policy": model_digest(run.policy(t)),
        "reference": model_digest(run.reference(t)),
    }


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    limits = {"min_chars": recipe.pair.min_chars, "max_chars": recipe.pair.max_chars}
    own = {"template": recipe.template, "dtype": recipe.dtype}
    own["columns"] = ", ".join(Score.__struct_fields__)  # scores of an earlier version are made again
    return {**own, "score": asdict(recipe.score), "pair": limits}


def _run(run: Run, t: int) -> Outcome:
    job = Job.of(run.recipe, run.round_dir(t), run.policy(t), run.reference(t))
    run_job(job)
    dropped: Tally[str] = Tally()
    rows = tokens = 0
    total = 0.0
    for response, score in scored(job):
        if score is None:
            dropped[why_dropped(response, job)] += 1
            continue
        rows, tokens, total = rows + 1, tokens + score.n_tokens, total + score.reward
    if not rows:
        raise BadInput(f"{job.folder}: no response can be scored ({dict(dropped)})")
    return Outcome(
        rows_in=rows + dropped.total(),
        rows_out=rows,
        summary=f"{rows:,} implicit rewards, {total / rows:+.2f} nats on average",
        dropped=dict(dropped),
        figures={"tokens": tokens, "mean_reward": total / rows},
    )


STAGE = Stage(
    "score",
    _inputs,
    _settings,
    outputs=("scores",),
    run=_run,
    needs=lambda run, t: [("generate", t), *makers(t - 1, t - 2)],
    parts=("scores/*.jsonl",),
)
