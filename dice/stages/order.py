"""The stages of a run, in their order."""

from collections.abc import Iterator
from functools import partial

from dice.run import stage
from dice.run.run import Run
from dice.run.stage import Stage
from dice.stages import evaluate, generate, pair, score, train, train_reward_model

ROUND = (generate.STAGE, score.STAGE, pair.STAGE, train.STAGE)
STAGES = {one.name: one for one in (train_reward_model.STAGE, *ROUND, evaluate.STAGE)}


def stages_of(run: Run) -> Iterator[tuple[Stage, int]]:
    """The stages that a run's recipe asks for, with their rounds: 0 before the first and after the last."""
    if train_reward_model.is_wanted(run.recipe):
        yield train_reward_model.STAGE, 0
    for t in range(1, run.recipe.rounds + 1):
        yield from ((one, t) for one in ROUND)
    if run.recipe.evaluate.judge:
        yield evaluate.STAGE, 0


execute = partial(stage.execute, order=stages_of)
