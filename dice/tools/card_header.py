"""The YAML header of a model's card, by which the Hub files it: base model, license, data sets, tags."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from dice.data import dataset_info
from dice.errors import BadInput
from dice.models import hub
from dice.models.checkpoint import HUB_ID, base_of
from dice.recipe.keys import Recipe
from dice.recipe.paths import resolve

TAGS = ["dice", "dpo", "preference-optimization", "llama-factory"]
LICENSE = ("license", "license_name", "license_link")
ABSOLUTE = re.compile(r"(?<![\w.~:/-])~?/(?:[^\s'\"/]+/)+(?=[^\s'\"/])")  # the folders of a path


def of_recipe(recipe: Recipe, pairs: str | None = None) -> str:
    """The header for a model of a recipe, as YAML; `pairs` is the Hub's data set with a run's own.

    What is not known is left out: a license, say, where the base model's card can't be read.
    """
    base = next(_bases(recipe), None)
    known = {**_card(recipe.policy), **(_card(base) if base else {})}
    sets = [*_data_sets(recipe), *([pairs] if pairs else [])]
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base,
        **{key: known.get(key) for key in LICENSE},
        "datasets": sets,
        "tags": TAGS,
    }
    return yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False)


def without_folders(text: str) -> str:
    """A text in which a path of this machine, /home/me/models/dpo say, is its last part."""
    return ABSOLUTE.sub("", text)


def _bases(recipe: Recipe) -> Iterator[str]:
    """Models of the Hub that the policy comes from, the nearest first."""
    of_policy = _card(recipe.policy).get("base_model")
    names = [recipe.policy, *(of_policy if isinstance(of_policy, list) else [of_policy])]
    if resolve(recipe.policy).is_dir():
        with contextlib.suppress(BadInput):
            names.append(base_of(recipe.policy))
    yield from (name for name in (*names, recipe.reference) if isinstance(name, str) and _is_on_hub(name))


def _card(name: str) -> dict[str, Any]:
    """What the header of a model's own card says: of a folder, the Hub's cache, or the Hub."""
    from huggingface_hub import ModelCard

    place: Path | str = resolve(name) / "README.md"
    if _is_on_hub(name):
        hub.settle()
        place = name
    elif not place.is_file():
        return {}
    try:
        return ModelCard.load(place).data.to_dict()
    except Exception:  # no network, no card, or one with a header of some other kind
        return {}


def _data_sets(recipe: Recipe) -> list[str]:
    """The recipe's data sets that the Hub has."""
    names = [*recipe.prompt_sets, recipe.replay.dataset if recipe.replay.gamma > 0 else None]
    found = []
    for name in filter(None, names):
        with contextlib.suppress(BadInput):
            source = dataset_info.find_entry(recipe.dataset_dir, name)
            found += [source.hub] if source.hub and not Path(source.hub).is_dir() else []
    return [*dict.fromkeys(found)]


def _is_on_hub(name: str) -> bool:
    return (
        bool(HUB_ID.fullmatch(name))
        and not resolve(name).is_dir()
        and not resolve(name.partition("/")[0]).exists()
    )
