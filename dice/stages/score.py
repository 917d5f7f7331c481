"""Stage 1.2: the reward of every response of a round; by default the implicit one (the paper's section 3)."""

from collections import Counter as Tally
from typing import Any

from dice.errors import BadInput
from dice.inference.load import dtype_of
from dice.launch import devices
from dice.recipe.keys import Recipe
from dice.rewards.judge import tally
from dice.rewards.mismatch import Mismatch
from dice.rewards.scoring import inputs, score_round, scored, settings, workers_of
from dice.rewards.source import source_of
from dice.run.digests import folder_digest
from dice.run.rows import Dropped, Score
from dice.run.run import Run
from dice.run.stage import Outcome, Stage, makers
from dice.stages import train_reward_model


def _inputs(run: Run, t: int) -> dict[str, str]:
    return {"responses": folder_digest(run.round_dir(t) / "responses"), **inputs(run, t)}


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe.in_round(t)
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
    mismatch = Mismatch(recipe.score.normalize == "tokens", run.averaged(t))
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
    needs=lambda run, t: [("generate", t), *makers(*run.reads(t)), *train_reward_model.maker(run.recipe)],
    given=lambda run, t: {
        "reward model": "score.reward_model",
        "judge": "score.judge",
        **run.given(t),
    },
    launches=lambda run, t: [workers_of(run, t).launch()],
)
