"""What of a recipe's data can be known to be wrong before round 1."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from dice.data import dataset_dir, dataset_info
from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import BadInput, Unmade, counted
from dice.models import hub
from dice.models.checkpoint import NotDownloaded, NotHere
from dice.pairing import replay
from dice.recipe.keys import Recipe
from dice.recipe.paths import is_function
from dice.rewards.function import load_function
from dice.stages import evaluate, train, train_reward_model


def data_sets(recipe: Recipe) -> dict[str, tuple[Callable, str]]:
    """The data sets of a recipe by key, each with the function that reads it."""
    sets = {"prompts": (read_prompts, recipe.prompts)}
    if recipe.replay.gamma > 0 or train_reward_model.is_wanted(recipe):
        sets["replay.dataset"] = (read_preferences, recipe.replay.dataset)
    if recipe.evaluate.preferences:
        sets["evaluate.preferences"] = (read_preferences, recipe.evaluate.preferences)
    if recipe.evaluate.prompts:
        sets["evaluate.prompts"] = (read_prompts, recipe.evaluate.prompts)
    return sets


def check_names(recipe: Recipe) -> str:
    """Raises BadInput for data sets or functions that do not exist, and for names that are taken."""
    sets = data_sets(recipe)
    for key, (_, name) in sets.items():
        with naming(key):
            dataset_info.find_entry(recipe.dataset_dir, name)
    with naming("register"):
        dataset_dir.check_names_free(recipe)
    if recipe.evaluate.judge:
        evaluate.load_judge(recipe.evaluate.judge)
    if is_function(recipe.score.reward):
        load_function("score.reward", recipe.score.reward)
    return f"{', '.join(dict.fromkeys(name for _, name in sets.values()))} in dataset_info.json"


def check_data(recipe: Recipe, key: str, download: bool, counts: dict[str, int]) -> str:
    """Read a data set of the recipe to its end; its distinct prompts are counted in `counts`.

    Raises BadInput, naming key, file and line; also where the offline pairs are so few that gamma leaves
    no room for a generated one. Raises NotHere for a set of the Hub that is not in its cache and can't,
    or without `download` must not, be fetched.
    """
    read, name = data_sets(recipe)[key]
    with naming(key):
        on_hub = not dataset_info.find_entry(recipe.dataset_dir, name).is_local
        try:
            with hub.only_cached() if on_hub and not download else contextlib.nullcontext():
                rows, dropped = read(recipe.dataset_dir, name)
        except BadInput as error:
            if on_hub and (hub.out_of_reach() or not download):
                raise (NotHere if hub.out_of_reach() else NotDownloaded)(str(error)) from None
            raise
        counts[key] = len({row.prompt_id for row in rows})
        if key == "replay.dataset":
            replay.check_size(counts[key], recipe.replay.gamma)
    what = "pairs" if read is read_preferences else "prompts"
    return f"{len(rows):,} {what} of {name}{_left_out(dropped)}"


def check_enough(recipe: Recipe, counts: dict[str, int]) -> str:
    """Raises BadInput where even a pair of every prompt would leave too few to train on.

    `counts` has the distinct prompts of each set that could be read.
    """
    if any(key not in counts for key in data_sets(recipe)):
        return Unmade("not counted: a data set tells nothing yet")
    generated = counts["prompts"] * recipe.pair.per_prompt
    pairs = sum(replay.mixture_sizes(counts.get("replay.dataset", 0), generated, recipe.replay.gamma))
    train.check_rows(pairs, recipe)
    return f"at most {counted(pairs, 'pair')} a round"


def _left_out(dropped: Counter[str]) -> str:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
    return f" (left out: {reasons})" if reasons else ""


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts the recipe's key, or where it is set, before the message of a BadInput."""
    try:
        yield
    except BadInput as error:
        raise type(error)(f"{what}: {error}") from error
