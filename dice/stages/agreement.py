"""Does the reward agree with held-out labels? Found out before round 1 and after each round.

The reward is the one that the next round's responses would get. Where it is no better than a coin, hours of
sampling and training teach nothing, and that is said before they are spent.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dice.data import dataset_info
from dice.data.prompts_and_preferences import read_preferences
from dice.errors import BadInput, counted
from dice.rewards import score_answers, scoring
from dice.rewards.source import source_of
from dice.run.run import Run
from dice.run.stage import Outcome, Stage, makers
from dice.stages import train_reward_model
from dice.stages.evaluate import win_rate

NOTHING = "–"  # what so few pairs do not tell
LEAST = 0.55  # a smaller share is hardly more than chance
WARNING = (
    "the reward agrees with {} of the held-out labels, and a coin with half of them: a round on it is likely "
    "to be wasted; check policy, reference and template"
)
REPLAYED = "the prompts of {} of the {} of evaluate.preferences are in replay.dataset, too: not held out"
WORK = "pairs"  # the folder in which the pairs get their rewards


@dataclass(frozen=True)
class Agreement:
    """How often reward and label agree (a tie is half an agreement), over `pairs` pairs."""

    pairs: int
    share: float  # 0 to 1; NaN of no pair
    error: float  # standard error; NaN of a single pair

    @classmethod
    def of(cls, margins: np.ndarray) -> "Agreement":
        """From margins (N,): reward of chosen minus reward of rejected."""
        found = win_rate(margins[:, None], np.zeros((len(margins), 1))) if len(margins) else (math.nan,) * 2
        return cls(len(margins), *found)

    def __str__(self) -> str:
        if not self.pairs:
            return NOTHING
        return f"{self.share:.1%} ± {f'{self.error:.1%}' if self.pairs > 1 else NOTHING}"


def _folder(run: Run, t: int) -> Path:
    return run.path / "agreement" / (f"after-round-{t}" if t else "before-round-1")


def _scratch(run: Run, t: int) -> Run:
    return score_answers.elsewhere(run, _folder(run, t) / WORK, t + 1)


def _inputs(run: Run, t: int) -> dict[str, str]:
    digest = dataset_info.digest(run.recipe.dataset_dir, run.recipe.evaluate.preferences)
    return {"preferences": digest, **scoring.inputs(_scratch(run, t), 0)}


def _settings(run: Run, t: int) -> dict[str, Any]:
    scores = score_answers.settings(_scratch(run, t).recipe)
    return {"preferences": run.recipe.evaluate.preferences, "scores": scores}


def _run(run: Run, t: int) -> Outcome:
    recipe, source = run.recipe, source_of(run.recipe)
    pairs, dropped = read_preferences(recipe.dataset_dir, recipe.evaluate.preferences)
    margins = score_answers.margins(_scratch(run, t), pairs)
    known = margins[~np.isnan(margins)]
    if not len(known):
        raise BadInput(f"evaluate.preferences: {recipe.evaluate.preferences}: no pair can be scored")
    dropped["pairs with an answer that can't be scored"] = len(margins) - len(known)
    found = Agreement.of(known)
    warnings = [] if found.share >= LEAST else [WARNING.format(found)]
    if recipe.replay.gamma > 0 or train_reward_model.is_wanted(recipe):
        replayed = {one.prompt_id for one in read_preferences(recipe.dataset_dir, recipe.replay.dataset)[0]}
        if shared := sum(pair.prompt_id in replayed for pair in pairs):
            warnings.append(REPLAYED.format(shared, counted(len(pairs), "pair")))
    return Outcome(
        rows_in=len(pairs),
        rows_out=len(known),
        summary=f"{source.title} agree with {found} of {counted(len(known), 'held-out label')}",
        dropped=dict(dropped),
        figures={"agreement": found.share, **({"agreement_error": found.error} if found.pairs > 1 else {})},
        warnings=warnings,
    )


STAGE = Stage(
    "agree",
    _inputs,
    _settings,
    outputs=(),
    run=_run,
    folder=_folder,
    working=(WORK,),
    needs=lambda run, t: [*makers(*run.ends(t + 1)), *train_reward_model.maker(run.recipe)],
    expendable=True,
    launches=lambda run, t: [score_answers.launch(_scratch(run, t))],
)
