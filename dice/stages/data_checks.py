"""What of a recipe's data can be known to be wrong before round 1."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from dice.data import dataset_dir, dataset_info, prompt_sets
from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import BadInput, Unmade, counted
from dice.models import hub
from dice.models.checkpoint import NotDownloaded, NotHere
from dice.pairing import replay
from dice.recipe.keys import Recipe
from dice.recipe.paths import is_function
from dice.rewards.function import load_function
from dice.stages import evaluate, train, train_reward_model


def data_sets(recipe: Recipe) -> dict[str, tuple[Callable, list[str]]]:
    """The names of a recipe's data sets by key, with the function that reads them."""
    sets = {"prompts": (read_prompts, recipe.prompt_sets)}
    if recipe.replay.gamma > 0 or train_reward_model.is_wanted(recipe):
        sets["replay.dataset"] = (read_preferences, [recipe.replay.dataset])
    if recipe.evaluate.preferences:
        sets["evaluate.preferences"] = (read_preferences, [recipe.evaluate.preferences])
    if recipe.evaluate.prompts:
        sets["evaluate.prompts"] = (read_prompts, [recipe.evaluate.prompts])
    return sets


def check_names(recipe: Recipe) -> str:
    """Raises BadInput for data sets or functions that do not exist, and for names that are taken."""
    sets = data_sets(recipe)
    for key, (_, names) in sets.items():
        for name in names:
            with naming(key):
                dataset_info.find_entry(recipe.dataset_dir, name)
    with naming("register"):
        dataset_dir.check_names_free(recipe)
    if recipe.evaluate.judge:
        evaluate.load_judge(recipe.evaluate.judge)
    if is_function(recipe.score.reward):
        load_function("score.reward", recipe.score.reward)
    found = dict.fromkeys(name for _, names in sets.values() for name in names)
    return f"{', '.join(found)} in dataset_info.json"


def check_data(recipe: Recipe, key: str, download: bool, counts: dict[str, int]) -> str:
    """Read the data sets that a key names to their end; their distinct prompts are counted in `counts`.

    Of `prompts` it is those of the round that has the fewest. Raises BadInput, naming key, file and line;
    also where the offline pairs are so few that gamma leaves no room for a generated one, where rounds would
    share prompts, and where a set has too few for all rounds. Raises NotHere for a set of the Hub that is
    not in its cache and can't, or without `download` must not, be fetched.
    """
    read, names = data_sets(recipe)[key]
    what = "pairs" if read is read_preferences else "prompts"
    with naming(key):
        sets, told = {}, []
        for name in names:
            sets[name], dropped = _read(recipe, read, name, download)
            told.append(f"{len(sets[name]):,} {what} of {name}{_left_out(dropped)}")
        counts[key] = min(len({row.prompt_id for row in rows}) for rows in sets.values())
        if key == "replay.dataset":
            replay.check_size(counts[key], recipe.replay.gamma)
        if key == "prompts":
            prompt_sets.check_apart(sets)
            prompt_sets.check_size(recipe, counts[key])
            counts[key] = recipe.prompts_per_round or counts[key]
    return ", ".join(told)


def _read(recipe: Recipe, read: Callable, name: str, download: bool) -> tuple[list, Counter[str]]:
    """The rows of a data set, and those left out by reason. Raises as `check_data` does."""
    on_hub = not dataset_info.find_entry(recipe.dataset_dir, name).is_local
    try:
        with hub.only_cached() if on_hub and not download else contextlib.nullcontext():
            return read(recipe.dataset_dir, name)
    except BadInput as error:
        if on_hub and (hub.out_of_reach() or not download):
            raise (NotHere if hub.out_of_reach() else NotDownloaded)(str(error)) from None
        raise


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
