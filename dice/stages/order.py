"""The stages of a run, in their order."""

from collections.abc import Iterator
from functools import partial

from dice.data import dataset_dir
from dice.run import stage
from dice.run.manifests import Manifest
from dice.run.run import Run
from dice.run.stage import Stage
from dice.stages import agreement, evaluate, gates, generate, pair, score, train, train_reward_model

ROUND = (generate.STAGE, score.STAGE, pair.STAGE, train.STAGE)
STAGES = {one.name: one for one in (train_reward_model.STAGE, *ROUND, agreement.STAGE, evaluate.STAGE)}


def of_round(run: Run) -> tuple[Stage, ...]:
    """The stages of a round."""
    return (*ROUND, agreement.STAGE) if run.recipe.evaluate.preferences else ROUND


def stages_of(run: Run) -> Iterator[tuple[Stage, int]]:
    """The stages that a run's recipe asks for, with their rounds: 0 before the first and after the last."""
    if train_reward_model.is_wanted(run.recipe):
        yield train_reward_model.STAGE, 0
    if run.recipe.evaluate.preferences:
        yield agreement.STAGE, 0
    for t in range(1, run.recipe.rounds + 1):
        yield from ((one, t) for one in of_round(run))
    if run.recipe.evaluate.judge:
        yield evaluate.STAGE, 0


execute = partial(stage.execute, order=stages_of)


def run_stage(name: str, run: Run, t: object, force: bool = False) -> Manifest | None:
    """`execute` a stage by its name; None where the run's recipe does not ask for it.

    Raises BadInput where the run has no such round, and where the recipe's `register` names a data set that
    is another one; GateClosed where one of its gates is closed.
    """
    one = STAGES[name]
    is_of_round = one in ROUND or (one is agreement.STAGE and t != 0)
    number = run.checked_round(t) if is_of_round else t
    if (one, number) not in stages_of(run):
        return None
    manifest = execute(one, run, number, force)
    gates.check(run, manifest)
    if one is pair.STAGE:
        dataset_dir.register_round(run, number, force)
    return manifest
