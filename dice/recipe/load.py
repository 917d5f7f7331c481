"""Reading recipes: file and overrides -> a validated Recipe, with errors that say where.

Values come from three sources, later ones winning: the LLaMA-Factory file that `train.config` names
(into `train.args`), `dice.yaml`, and `key=value` on the command line.
"""

import difflib
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from dice.errors import BadInput, Unreadable, first_in, first_line, secrets
from dice.recipe.groups import Train
from dice.recipe.keys import GROUPS, Recipe, known_keys
from dice.recipe.paths import RECIPES, ROOT, may_exist, recipe_names
from dice.recipe.seal import is_sealed
from dice.recipe.train_args import MANAGED_TRAIN_ARGS
from dice.recipe.values import inside, literal

COMMAND_LINE = "on the command line"
# What ends "KEY is VALUE; it must be", by the type of pydantic's error.
WANTED = {
    "literal_error": "{expected}",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a group of keys",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}


@dataclass(frozen=True)
class Source:
    """A recipe as it was written: its file, and the overrides on the command line."""

    path: Path
    written: dict[str, Any]
    given: dict[str, Any]

    @property
    def training_file(self) -> Path:
        for block in (self.given, self.written):
            train = block.get("train")
            if isinstance(train, dict) and train.get("config") is not None:
                return self.path.parent / str(train["config"])
        return self.path.parent / Train().config

    def place(self, key: str) -> str:
        """Where a key is set, the command line or file:line; of one that is not set, where it would be."""
        key = key.replace("train.args.", "train.", 1)
        names = (key, key.replace("train.", "train.args.", 1))
        if any(_has(self.given, name) for name in names):
            return COMMAND_LINE
        if found := [name for name in names if _has(self.written, name)]:
            return _line(self.path, found[0])
        if key.startswith("train.") and key not in known_keys() and self.training_file.is_file():
            return _line(self.training_file, key.removeprefix("train."))
        return _line(self.path, key)


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` (one that comes with DICE, or a folder with a dice.yaml) with overrides.

    Keys of its file that begin with `x-` are the user's own, for YAML's anchors. Raises BadInput, naming
    file, line and key, for anything unknown or out of range.
    """
    source = _source(name, overrides)
    blocks = [_with_train_args(block, source) for block in (source.written, source.given)]
    config = source.training_file
    if not may_exist(config) or not config.is_file():
        raise BadInput(f"{source.place('train.config')}: train.config names {config}, which does not exist")
    # The file may be complete, to be of use without DICE; what the loop sets is left out here.
    args = {key: value for key, value in _read_yaml(config).items() if key not in MANAGED_TRAIN_ARGS}
    defaults = {"run": source.path.parent.name, "train": {"args": _spelled_out(args)}}
    recipe = _validated(source, defaults, *blocks).with_models_found()
    _refuse_secrets(recipe, source)
    return recipe


def origin(name: str, overrides: Sequence[str], key: str) -> str:
    """Where a key of a recipe is set: the command line, or file:line."""
    return _source(name, overrides).place(key)


def load_resolved(path: Path) -> Recipe:
    """A recipe from what `resolved_yaml` made of it, sealed or not.

    Raises BadInput for anything unknown or out of range, and for a sealed one that was edited.
    """
    source = Source(path, _read_yaml(path), {})
    is_sealed(path)
    return _validated(source, source.written)


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; `load_resolved` reads back an equal one."""
    header = "# The resolved recipe of this run, defaults and overrides included.\n"
    return header + OmegaConf.to_yaml(OmegaConf.create(literal(recipe.model_dump())))


def _source(name: str, overrides: Sequence[str]) -> Source:
    shipped, own = RECIPES / name / "dice.yaml", (Path(name) / "dice.yaml", Path(name))
    for path in (shipped, *own) if name in recipe_names() else (*own, shipped):
        if may_exist(path) and path.is_file():
            path = path.resolve()
            written = {k: v for k, v in _read_yaml(path).items() if not str(k).startswith("x-")}
            return Source(path, _with_train_config(written), _parse_overrides(overrides))
    raise BadInput(
        f"unknown recipe {name!r}; there are: {', '.join(recipe_names())} (or give a folder with a dice.yaml)"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():  # a pipe, say, would never end
        raise BadInput(f"{_shown(path)}: not a file")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise BadInput(f"{_shown(path)}:{line}: not YAML ({error.problem})") from None
    except OSError as error:
        raise Unreadable.because(_shown(path), error) from None
    except (yaml.YAMLError, ValueError, OmegaConfBaseException) as error:
        raise BadInput(f"{_shown(path)}: not YAML ({first_line(error)})") from None
    if not isinstance(loaded, dict):
        raise BadInput(f"{_shown(path)}: not a mapping of keys to values")
    return loaded


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    given = OmegaConf.create({})
    for item in overrides:
        key, equals, _ = str(item).partition("=")
        if not equals or not key:
            raise BadInput(f"{COMMAND_LINE}: {item!r} is not of the form key=value")
        if key.startswith("train.") and isinstance(given.get("train"), str):
            given.train = {"config": given.train}
        try:
            given.merge_with_dotlist([item])
        except (OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
            raise BadInput(f"{COMMAND_LINE}: {item!r}: {first_line(error)}") from None
        if "\n" in item and isinstance(OmegaConf.select(given, key), str):  # YAML makes it a blank
            raise BadInput(f'{COMMAND_LINE}: {item!r} has a newline; in text it is written \\n, in "quotes"')
    return _with_train_config(OmegaConf.to_container(given))


def _with_train_config(block: dict[str, Any]) -> dict[str, Any]:
    """`train: dpo.yaml` is short for `train.config`."""
    train = block.get("train")
    return block | {"train": {"config": train}} if isinstance(train, str) else block


def _with_train_args(block: dict[str, Any], source: Source) -> dict[str, Any]:
    """Keys of `train` that are not DICE's are LLaMA-Factory's: they belong into `train.args`."""
    train = block.get("train")
    if not isinstance(train, dict):
        return block
    own = {key: value for key, value in train.items() if key in Train.model_fields}
    args = {key: value for key, value in train.items() if key not in own}
    given = own.get("args", {})
    if not isinstance(given, dict):
        raise BadInput(f"{source.place('train.args')}: train.args is {_spelled(given)}; it must be a mapping")
    for key in sorted(MANAGED_TRAIN_ARGS & (args | given).keys()):
        raise BadInput(f"{source.place(f'train.{key}')}: train.{key} follows from the rest of the recipe")
    return block | {"train": own | ({"args": given | _spelled_out(args)} if args else {})}


def _spelled_out(args: dict[str, Any]) -> dict[str, Any]:
    """YAML reads an unquoted `no` as false; as a strategy (when to save, when to validate) it is a word."""
    return {
        key: "no" if value is False and str(key).endswith("_strategy") else value
        for key, value in args.items()
    }


def _validated(source: Source, *blocks: dict[str, Any]) -> Recipe:
    """The recipe of some blocks of values, later ones winning, `${...}` in them resolved."""
    defaults = Recipe.model_construct().model_dump()  # which `${...}` may name
    try:
        merged = OmegaConf.create(functools.reduce(_merged, blocks, defaults))
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
        _refuse_unknown_keys(values, source)
        return Recipe.model_validate(values)
    except ValidationError as error:
        key, message = _explained(error)
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        message = f"{key}: {error.msg or error}".splitlines()[0]
    except (OverflowError, RecursionError) as error:  # beyond all measure
        raise BadInput(f"{_shown(source.path)}, or {COMMAND_LINE}: {error}") from None
    raise BadInput(f"{source.place(key)}: {message}")


def _merged(base: Any, over: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    return base | {key: _merged(base.get(key), value) for key, value in over.items()}


def _refuse_unknown_keys(values: dict[Any, Any], source: Source) -> None:
    for group, block in [("", values), *((name, values[name]) for name in GROUPS)]:
        known = GROUPS.get(group, Recipe).model_fields
        dot = "." if group else ""
        for name in block if isinstance(block, dict) else ():
            if name in known:
                continue
            key = f"{group}{dot}{name}"
            close = [f"{group}{dot}{near}" for near in difflib.get_close_matches(str(name), known, n=1)]
            close += [other for other in known_keys() if other.endswith(f".{name}")]  # of another group
            hint = f" (did you mean {close[0]}?)" if close else ""
            there = ", ".join(f"{group}{dot}{other}" for other in known)
            raise BadInput(f"{source.place(key)}: unknown key {key!r}{hint}; there are: {there}")


def _explained(error: ValidationError) -> tuple[str, str]:
    """The key at fault and what would be right, of the first error."""
    errors = error.errors(include_url=False)
    first = errors[0]
    place = first["loc"][: 2 if first["loc"] and first["loc"][0] in GROUPS else 1]  # less the part of a union
    key = ".".join(map(str, place))
    if first["type"] == "value_error":
        below, reason = first["ctx"]["error"].args
        key = ".".join(filter(None, [key, below])).replace("train.args.", "train.", 1)
        return key, f"{key} {reason}"
    if first["type"] == "missing":
        return key, f"{key} is missing; a recipe needs policy, reference, template and prompts"
    same = [one for one in errors if one["loc"][: len(place)] == place]
    of_types = [WANTED[one["type"]].format(**one.get("ctx", {})) for one in same]
    wanted = dict.fromkeys((of_types[0], of_types[-1]))  # of a union's numbers the last is the widest
    return key, f"{key} is {_spelled(first['input'])}; it must be {' or '.join(wanted)}"


def _spelled(value: Any) -> str:
    """A value as YAML has it, on one line."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    return json.dumps(value) if value is None or isinstance(value, bool) else f"{value!r:.80}"


def _refuse_secrets(recipe: Recipe, source: Source) -> None:
    known = secrets()
    for key, value in inside(recipe.model_dump()):
        is_group = isinstance(value, dict | list)
        if name := first_in(key, known) or (None if is_group else first_in(str(value), known)):
            reason = f"the value of {name} is in it, but a recipe is written down with the results"
            raise BadInput(f"{source.place(key)}: {key}: {reason}")


def _has(block: Any, key: str) -> bool:
    """Whether a key is set in some values; that of an item of a list is where the list is."""
    for part in key.split("."):
        if isinstance(block, list):
            return True
        block = {str(name): value for name, value in block.items()} if isinstance(block, dict) else {}
        if part not in block:
            return False
        block = block[part]
    return True


def _line(path: Path, key: str) -> str:
    """path:line of a key in a YAML file, or of its group; the path alone where neither is there."""
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:  # a tab within a word, say, which the C reader that made the values lets pass
        return _shown(path)
    line = None
    for part in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if k.value == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return f"{_shown(path)}:{line}" if line else _shown(path)


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
