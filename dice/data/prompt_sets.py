"""Which prompts a round asks: all of a set, or the round's part of it."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from dice.data.prompts_and_preferences import read_prompts
from dice.errors import BadInput, counted
from dice.recipe.keys import Recipe
from dice.recipe.seeds import seed_of
from dice.run.rows import Prompt


def read_round(recipe: Recipe, t: int) -> tuple[list[Prompt], Counter[str]]:
    """The prompts of round t in the order of their set, and what else the set has, by reason.

    With `prompts_per_round` the set is shuffled by the recipe's seed alone and cut into parts of that size;
    round t has the t-th part, however many rounds there are. Raises BadInput where the set can't be read,
    or has too few prompts for all rounds.
    """
    prompts, others = read_prompts(recipe.dataset_dir, recipe.prompt_set(t))
    if each := recipe.prompts_per_round:
        check_size(recipe, len(prompts))
        shuffled = random.Random(seed_of(recipe.seed, 0, "prompts")).sample(range(len(prompts)), len(prompts))
        others["prompts that are not of this round"] = len(prompts) - each
        prompts = [prompts[index] for index in sorted(shuffled[(t - 1) * each : t * each])]
    return prompts, others


def check_size(recipe: Recipe, count: int) -> None:
    """Raises BadInput where a set of `count` prompts has no `prompts_per_round` for each round."""
    each = recipe.prompts_per_round or 0
    if count < (wanted := recipe.rounds * each):
        raise BadInput(
            f"{recipe.prompts} has {counted(count, 'prompt')}, but {counted(recipe.rounds, 'round')} with "
            f"{each:,} each (prompts_per_round) need {wanted:,}; lower one of the two, or name a larger set"
        )


def check_apart(sets: Mapping[str, Sequence[Prompt]]) -> None:
    """Raises BadInput where two of the sets, by name, share a prompt."""
    found: dict[str, str] = {}
    for name, prompts in sets.items():
        for prompt in prompts:
            if (other := found.setdefault(prompt.prompt_id, name)) != name:
                text = prompt.messages[-1]["content"]
                raise BadInput(
                    f"{other} and {name} share prompts, {text!r:.80} for one; each round must have prompts "
                    "of its own, so take these out of one of the two sets"
                )
