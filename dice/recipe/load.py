"""Reading recipes: file and overrides -> a validated Recipe, with errors that say where.

Values come from three places, later ones winning: the LLaMA-Factory file that `train.config` names
(into `train.args`), `dice.yaml`, and `key=value` on the command line.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from dice.errors import BadInput, first_in, first_line
from dice.recipe.keys import RECIPES, ROOT, Recipe, Train, known_keys, may_exist, recipe_names
from dice.recipe.rules import MANAGED_TRAIN_ARGS, broken_rules, inside

COMMAND_LINE = "on the command line"


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe `name` (one that comes with DICE, or a folder with a dice.yaml) with overrides.

    Raises BadInput, naming file, line and key, for anything unknown or out of range.
    """
    path = _find(name)
    source, given = _read_yaml(path), _parse_overrides(overrides)
    for block, where in ((given, lambda key: COMMAND_LINE), (source, lambda key: _place(path, key))):
        _move_train_args(block, where)
        _refuse_unknown_keys(block, where)
    config = path.parent / _train_config(given, source)
    if not may_exist(config) or not config.is_file():
        where = COMMAND_LINE if _has(given, "train.config") else _place(path, "train")
        raise BadInput(f"{where}: train.config names {config}, which does not exist")
    # The file may be complete, to be of use without DICE; what the loop sets is left out here.
    file_args = _read_yaml(config)
    file_args = _spelled_out({key: file_args[key] for key in file_args if key not in MANAGED_TRAIN_ARGS})
    defaults = {"run": path.parent.name, "train": {"args": file_args}}
    merged = _merge(path, given, defaults, source, given)
    _check(merged, path, given)
    _refuse_secrets(merged, path, given)
    return merged


def origin(name: str, overrides: Sequence[str], key: str) -> str:
    """Where a key of a recipe is set: the command line, or file:line."""
    path, given = _find(name), _parse_overrides(overrides)
    keys = (key, key.replace("train.", "train.args.", 1))
    if any(_has(given, key) for key in keys):
        return COMMAND_LINE
    source = _read_yaml(path)
    for known in keys:
        if _has(source, known):
            return _place(path, known)
    if key.startswith("train."):
        return _place(path.parent / _train_config(given, source), key.removeprefix("train."))
    return _place(path, key)


def load_resolved(path: Path) -> Recipe:
    """A recipe from what `resolved_yaml` made of it. Raises BadInput for anything unknown or out of range."""
    recipe = _merge(path, {}, _read_yaml(path))
    _check(recipe, path, {})
    return recipe


def resolved_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML, defaults included; `load_resolved` reads back an equal one."""
    header = "# The resolved recipe of this run, defaults and overrides included.\n"
    return header + OmegaConf.to_yaml(OmegaConf.create(_literal(asdict(recipe))))


def _literal(value: Any) -> Any:
    """A value with every `${` in it escaped, which OmegaConf would take for an interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: _literal(inner) for key, inner in value.items()}
    return [*map(_literal, value)] if isinstance(value, list) else value


def _find(name: str) -> Path:
    for path in (RECIPES / name / "dice.yaml", Path(name) / "dice.yaml", Path(name)):
        if may_exist(path) and path.is_file():
            return path.resolve()
    raise BadInput(
        f"unknown recipe {name!r}; there are: {', '.join(recipe_names())} (or give a folder with a dice.yaml)"
    )


def _train_config(*blocks: dict[str, Any]) -> str:
    """The training file's name from the first of some blocks that gives it."""
    for block in blocks:
        train = block.get("train")
        if isinstance(train, str) or (isinstance(train, dict) and "config" in train):
            return train if isinstance(train, str) else train["config"]
    return Train.config


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():  # a pipe, say, would never end
        raise BadInput(f"{_shown(path)}: not a file")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise BadInput(f"{_shown(path)}:{line}: not YAML ({error.problem})") from None
    except (yaml.YAMLError, OSError, ValueError, OmegaConfBaseException) as error:
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
    return OmegaConf.to_container(given)


def _move_train_args(block: dict[str, Any], where: Callable[[str], str]) -> None:
    """`train: dpo.yaml` is short for `config`; keys that are not DICE's are LLaMA-Factory's."""
    train = block.get("train")
    if isinstance(train, str):
        block["train"] = train = {"config": train}
    if not isinstance(train, dict):
        return
    for key, kind, wanted in (("config", str, "a file name"), ("args", dict, "a mapping of arguments")):
        if not isinstance(train.get(key, kind()), kind):
            raise BadInput(f"{where(f'train.{key}')}: train.{key} is {train[key]!r}; it must be {wanted}")
    own = {spec.name for spec in fields(Train)}
    args = {key: train.pop(key) for key in [*train] if key not in own}
    for key in sorted(MANAGED_TRAIN_ARGS & args.keys()):
        raise BadInput(f"{where(f'train.{key}')}: train.{key} follows from the rest of the recipe")
    if args:
        train["args"] = {**train.get("args", {}), **_spelled_out(args)}


def _spelled_out(args: dict[str, Any]) -> dict[str, Any]:
    """YAML reads an unquoted `no` as false; as a strategy (when to save, when to validate) it is a word."""
    return {
        key: "no" if value is False and key.endswith("_strategy") else value for key, value in args.items()
    }


def _refuse_unknown_keys(block: dict[str, Any], where: Callable[[str], str]) -> None:
    keys = known_keys(Recipe)
    for key in _leaves(block):
        if key in keys:
            continue
        inner = [known for known in keys if known.startswith(f"{key}.")]
        close = difflib.get_close_matches(key, keys, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        message = f"unknown key {key!r}{hint}; there are: {', '.join(keys)}"
        if inner:
            message = f"{key} is a group of keys: {', '.join(inner)}"
        raise BadInput(f"{where(key)}: {message}")


def _leaves(block: dict[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in block.items():
        nested = isinstance(value, dict) and any(k.startswith(f"{prefix}{key}.") for k in known_keys(Recipe))
        found += _leaves(value, f"{prefix}{key}.") if nested else [f"{prefix}{key}"]
    return found


def _merge(path: Path, given: dict[str, Any], *blocks: dict[str, Any]) -> Recipe:
    try:
        merged = OmegaConf.structured(Recipe)
        for block in blocks:
            merged = OmegaConf.merge(merged, block)
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        key = error.full_key or ""
        where = COMMAND_LINE if _has(given, key) else _place(path, key)
        reason = str(error.msg or error).splitlines()[0]
        if isinstance(error, MissingMandatoryValue):
            reason = "missing; a recipe needs policy, reference, template and prompts"
        elif "Incompatible value 'None'" in reason:
            reason = "empty; it must have a value"
        raise BadInput(f"{where}: {key}: {reason}") from None
    except (OverflowError, RecursionError, TypeError) as error:  # beyond all measure; a list for a mapping
        raise BadInput(f"{_shown(path)}, or {COMMAND_LINE}: {error}") from None


def _check(recipe: Recipe, path: Path, given: dict[str, Any]) -> None:
    for key, message in broken_rules(recipe):
        raise BadInput(f"{COMMAND_LINE if _has(given, key) else _place(path, key)}: {message}")


def _refuse_secrets(recipe: Recipe, path: Path, given: dict[str, Any]) -> None:
    for key, value in inside(asdict(recipe)):
        is_group = isinstance(value, dict | list)
        if name := first_in(key) or (None if is_group else first_in(str(value))):
            where = COMMAND_LINE if _has(given, key) else _place(path, key)
            raise BadInput(
                f"{where}: {key}: the value of {name} is in it, but a recipe is written down with the results"
            )


def _has(block: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(block, dict) or part not in block:
            return False
        block = block[part]
    return True


def _place(path: Path, key: str) -> str:
    """path:line of a key in a YAML file, or the path alone where the key isn't there."""
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
