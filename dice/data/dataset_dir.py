"""Pairs -> a LLaMA-Factory dataset directory, and TRL's format."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dice.data import dataset_info, registry
from dice.errors import BadInput
from dice.launch.console import say
from dice.launch.devices import node_rank
from dice.recipe.keys import Recipe
from dice.recipe.paths import resolve
from dice.run import files
from dice.run.rows import Message, Pair, Preference, SampledIds, pair_key
from dice.run.run import Run, open_run
from dice.run.state import StageFiles

SAMPLED_IDS, SMOOTHING = "sampled_ids.jsonl", "smoothing.jsonl"  # what texts don't tell of pairs
# How dataset_info.json describes the rows of `ranking`: the sharegpt format with role/content keys,
# which carries system prompts and several turns.
ENTRY = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
    "tags": dataset_info.ROLE_CONTENT,
}


def write(
    folder: Path, generated: Sequence[Pair], mixed: Sequence[Pair | Preference], trl: bool = False
) -> None:
    """Write `dataset.json` (generated pairs), `mixed.json` (with replay) and `dataset_info.json`.

    Beside the texts, `sampled_ids.jsonl` has the token ids of the responses that were sampled as other tokens
    than their texts become. Our trainer takes these ids; other tools read the texts. With `trl`, also write
    both sets in TRL's format, `trl/dataset.json` and `trl/mixed.json`, for `load_dataset("json", ...)`.
    """
    sets = {"dataset": generated, "mixed": mixed}
    for name, pairs in sets.items():
        files.write_array(folder / f"{name}.json", map(ranking, pairs))
        if trl:
            files.write_array(folder / "trl" / f"{name}.json", map(_conversational, pairs))
    rows = (
        SampledIds(pair_key(p.messages, p.chosen, p.rejected), *ids) for p in mixed if any(ids := _ids(p))
    )
    files.write_rows(folder / SAMPLED_IDS, rows)
    entries = {name: {"file_name": f"{name}.json", **ENTRY} for name in sets}
    files.write_json(folder / "dataset_info.json", entries)


def register(round_dir: str, name: str, mixed: bool = False, force: bool = False) -> None:
    """Add a round's generated pairs, or its mixture, to the dataset_info.json of its recipe as `name`.

    `round_dir` is results/RUN/round-N. Raises BadInput where it has no finished pairs or the name is taken;
    `force` replaces an entry of the same round.
    """
    folder = next((path for path in (Path(round_dir), resolve(round_dir)) if path.is_dir()), Path(round_dir))
    if not StageFiles(folder, "pair").manifest():
        raise BadInput(f"{round_dir}: no finished pairs here; give a round's folder, results/RUN/round-N")
    _register(open_run(folder.absolute().parent).recipe, folder, name, mixed, force)


def register_round(run: Run, t: int, force: bool) -> None:
    """Add round t's generated pairs under the name that the recipe's `register` gives them, if it does."""
    if run.recipe.register and node_rank() == 0:
        _register(run.recipe, run.round_dir(t), f"{run.recipe.register}_{t}", force=force)


def _register(recipe: Recipe, folder: Path, name: str, mixed: bool = False, force: bool = False) -> None:
    registry_file = resolve(recipe.dataset_dir) / "dataset_info.json"
    entry = _entry(registry_file, folder, mixed)
    what = registry.register(registry_file, name, entry, folder / "dataset", force)
    say(f"register  {name}: {what} {registry_file}", mark="=" if what == "in" else "+")


def check_names_free(recipe: Recipe) -> None:
    """Raises BadInput where a name that `register` would give to a round belongs to another data set."""
    registry_file = resolve(recipe.dataset_dir) / "dataset_info.json"
    for t in range(1, recipe.rounds + 1) if recipe.register else ():
        folder, name = recipe.run_dir / f"round-{t}", f"{recipe.register}_{t}"
        registry.check_free(registry_file, name, _entry(registry_file, folder), folder / "dataset", True)


def _entry(registry_file: Path, folder: Path, mixed: bool = False) -> dict[str, Any]:
    """How dataset_info.json describes the pairs of a round's folder."""
    data = folder.resolve() / "dataset" / ("mixed.json" if mixed else "dataset.json")
    return {"file_name": os.path.relpath(data, registry_file.resolve().parent), **ENTRY}


def _ids(pair: Pair | Preference) -> tuple[list[int] | None, list[int] | None]:
    return (pair.chosen_ids, pair.rejected_ids) if isinstance(pair, Pair) else (None, None)


def ranking(pair: Pair | Preference) -> dict[str, Any]:
    """LLaMA-Factory's sharegpt ranking format."""
    return {"messages": pair.messages, "chosen": _answer(pair.chosen), "rejected": _answer(pair.rejected)}


def _conversational(pair: Pair | Preference) -> dict[str, Any]:
    """TRL's conversational preference format."""
    return {"prompt": pair.messages, "chosen": [_answer(pair.chosen)], "rejected": [_answer(pair.rejected)]}


def _answer(text: str) -> Message:
    return Message(role="assistant", content=text)
