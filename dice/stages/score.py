"""Stage 1.2: the reward of every response of a round; by default the implicit one (the paper's section 3)."""

from collections import Counter as Tally
from typing import Any

from dice.errors import BadInput
from dice.inference.load import dtype_of
from dice.launch import devices, processes
from dice.launch.processes import Workers
from dice.launch.worker import Worker
from dice.recipe.keys import Recipe
from dice.rewards.judge import is_local, tally
from dice.rewards.mismatch import Mismatch
from dice.rewards.scoring import score_shards, scored, settings
from dice.rewards.source import beside, responses_of, source_of
from dice.run import files
from dice.run.digests import folder_digest, model_digest
from dice.run.rows import Dropped, Score
from dice.run.run import Run, model_path, open_run
from dice.run.stage import Outcome, Stage, makers
from dice.stages import train_reward_model

WRITTEN = ("part", "dropped", "grades", "tokens")  # what shards have in scores/ once they are done


def work(worker: Worker, run_dir: str, t: str, *extra: str) -> None:
    """A worker's part of round t; the word `per_token` asks for the rewards of tokens."""
    score_shards(worker, open_run(run_dir), int(t), "per_token" in extra)


def _workers(run: Run, t: int, per_token: bool = False) -> Workers:
    recipe = run.recipe
    arguments = [str(run.path), str(t), *(["per_token"] if per_token else [])]
    samples_here = recipe.score.reward == "judge" and is_local(recipe.score.judge)
    gpus_each = recipe.generate.tensor_parallel if samples_here else 1
    return Workers(__name__, run.round_dir(t), arguments, source_of(recipe).counted, gpus_each)


def score_round(run: Run, t: int, per_token: bool = False) -> None:
    """Score the responses in the folder of round t, with as many workers as there are GPUs.

    Raises BadInput where the input can't be used, StageFailed where a worker broke.
    """
    folder = run.round_dir(t)
    processes.run_workers(*_workers(run, t, per_token))
    known = {beside(shard, what) for shard in responses_of(run, t) for what in WRITTEN}
    for path in (folder / "scores").iterdir():
        if path not in known and not path.name.endswith(files.SEAL):
            files.remove(path)  # of a worker that was killed before it could do so, or of somebody else's


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder, score = run.round_dir(t), run.recipe.score
    digests = {
        "responses": folder_digest(folder / "responses"),
        "policy": model_digest(run.policy(t)),  # of other rewards: its tokenizer
    }
    if score.reward == "implicit":
        digests["reference"] = model_digest(run.reference(t))
    if score.reward == "reward_model":
        digests["reward model"] = model_digest(run.reward_model())
    if score.reward == "judge" and score.judge != "policy" and is_local(score.judge):
        digests["judge"] = model_digest(model_path(score.judge))
    return digests


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    limits = {"min_chars": recipe.pair.min_chars, "max_chars": recipe.pair.max_chars}
    own = {**recipe.encoding_settings(), "dtype": recipe.dtype}
    needed = Score.__struct_fields__[: -len(Score.__struct_defaults__)]
    own["columns"] = ", ".join(needed)  # scores of an earlier version are made again
    return {**own, "score": settings(recipe), "pair": limits}


def _run(run: Run, t: int) -> Outcome:
    recipe, source = run.recipe, source_of(run.recipe)
    score_round(run, t)
    dropped: Tally[str] = Tally()
    rows = tokens = 0
    total = 0.0
    mismatch = Mismatch()
    for score in scored(run, t):
        if isinstance(score, Dropped):
            dropped[score.reason] += 1
            continue
        rows, tokens, total = rows + 1, tokens + score.n_tokens, total + score.reward
        mismatch.add(score)
    grades = tally(run, t) if recipe.score.reward == "judge" else {}
    told = ", ".join(f"{count:,} {what}" for what, count in grades.items())
    if not rows:
        raise BadInput(f"{run.round_dir(t)}: no response can be scored ({told or dict(dropped)})")
    return Outcome(
        rows_in=rows + dropped.total(),
        rows_out=rows,
        summary=f"{rows:,} {source.title}, {total / rows:+.2f} {source.unit} on average",
        dropped=dict(dropped),
        figures={
            "tokens": tokens,
            "mean_reward": total / rows,
            **(dtype_of(recipe) if recipe.score.reward in ("implicit", "reward_model") else {}),
            **({"grades": grades} if grades else {}),
            **({"mismatch": found} if (found := mismatch.figures()) else {}),
        },
        notes=[f"grades: {told}"] if grades else [],
        warnings=mismatch.warnings(is_rough=_is_rough(recipe)),
    )


def _is_rough(recipe: Recipe) -> bool:
    """Whether models are read in less than single precision."""
    return bool(recipe.score.quantization_bit) or devices.dtype_name(recipe.dtype) != "float32"


STAGE = Stage(
    "score",
    _inputs,
    _settings,
    outputs=("scores",),
    run=_run,
    shards="scores",
    needs=lambda run, t: [("generate", t), *makers(t - 1, t - 2), *train_reward_model.maker(run.recipe)],
    given=lambda run, t: {
        "reward model": "score.reward_model",
        "judge": "score.judge",
        **run.given(t),
    },
    launches=lambda run, t: [_workers(run, t).launch()],
)
