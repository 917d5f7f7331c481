"""UltraFeedback for the llama3 and zephyr recipes: a seeded sample of its binarized preferences.

    python scripts/data/prepare_ultrafeedback.py [--source FOLDER_OR_HUB_ID] [--pairs 10176] [--seed 42]

Writes data/ultrafeedback_10k.json (preferences), data/ultrafeedback_10k_prompts.json (their prompts) and
a card with counts and lengths, data/ultrafeedback_10k.md; data/dataset_info.json registers both sets
(with --output FOLDER: that folder's). Does nothing where all three exist.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import fire
import numpy as np

from dice.data import dataset_info
from dice.errors import BadInput
from dice.launch.console import run, say
from dice.recipe.paths import ROOT
from dice.run.files import write_array, write_text

HUB_ID = "HuggingFaceH4/ultrafeedback_binarized"
SPLIT = "train_prefs"
NAME = "ultrafeedback_10k"
ENTRIES = {
    f"{NAME}_prompts": {"file_name": f"{NAME}_prompts.json", "columns": {"prompt": "instruction"}},
    NAME: {
        "file_name": f"{NAME}.json",
        "ranking": True,
        "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
    },
}


def load(source: str) -> Iterable[dict[str, Any]]:
    """Rows of the preference split, from the Hub or from a local copy of its files."""
    from datasets import disable_progress_bars, load_dataset

    disable_progress_bars()
    try:
        if not Path(source).exists():
            return load_dataset(source, split=SPLIT)
        files = sorted(str(path) for path in Path(source).rglob(f"{SPLIT}*") if path.is_file())
        if not files:
            raise BadInput(f"{source}: no file named {SPLIT}*; it must be a copy of {HUB_ID}")
        kind = "parquet" if files[0].endswith(".parquet") else "json"
        return load_dataset(kind, data_files=files, split="train")
    except (OSError, ValueError) as error:
        raise BadInput(f"{source} can't be loaded: {str(error).strip().splitlines()[0]}") from error


def preference(row: dict[str, Any]) -> dict[str, str] | str:
    """A row as LLaMA-Factory's alpaca ranking format, or the reason why it is of no use."""
    prompt, sides = row["prompt"], [row["chosen"], row["rejected"]]
    if any(len(side) != 2 or side[0]["content"] != prompt for side in sides):
        return "not one question and one answer"
    chosen, rejected = (side[1]["content"] for side in sides)
    if not all(text.strip() for text in (prompt, chosen, rejected)):
        return "empty prompt or answer"
    if chosen == rejected:
        return "identical answers"
    return {"instruction": prompt, "chosen": chosen, "rejected": rejected}


def usable(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, str]], Counter[str]]:
    """The preferences of distinct prompts, the first of each kept, and the rest counted by reason.

    Raises BadInput, naming the row, where it has not the columns of the binarized preferences.
    """
    pairs: dict[str, dict[str, str]] = {}
    dropped: Counter[str] = Counter()
    for number, row in enumerate(rows, 1):
        try:
            pair = preference(row)
        except (KeyError, TypeError, AttributeError):
            raise BadInput(f"row {number}: not a row of {HUB_ID}; it has {', '.join(row)}") from None
        if isinstance(pair, str):
            dropped[pair] += 1
        elif pairs.setdefault(pair["instruction"], pair) is not pair:
            dropped["duplicate prompt"] += 1
    return list(pairs.values()), dropped


def card(source: str, seed: int, pairs: list[dict[str, str]], usable: int, dropped: Counter[str]) -> str:
    """What the sample is and where it comes from, as Markdown."""
    lines = [
        f"# {NAME}",
        "",
        f"{len(pairs):,} preference pairs with distinct prompts, drawn with seed {seed} from the {usable:,}",
        f"usable ones among the {usable + dropped.total():,} rows of `{source}`, split `{SPLIT}`.",
        "",
        "| rows left out | |",
        "| --- | --- |",
        *(f"| {reason} | {count:,} |" for reason, count in sorted(dropped.items())),
        "",
        "| characters | mean | 5% | median | 95% | longest |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for column, name in (("instruction", "prompt"), ("chosen", "chosen"), ("rejected", "rejected")):
        lengths = np.array([len(pair[column]) for pair in pairs])
        shown = [lengths.mean(), *np.quantile(lengths, (0.05, 0.5, 0.95)), lengths.max()]
        lines.append(f"| {name} | {' | '.join(f'{value:,.0f}' for value in shown)} |")
    longer = np.mean([len(pair["chosen"]) > len(pair["rejected"]) for pair in pairs])
    return "\n".join([*lines, "", f"Chosen is longer than rejected in {longer:.1%} of the pairs.", ""])


def main(source: str = HUB_ID, pairs: int = 10_176, seed: int = 42, output: str | None = None) -> None:
    """Write the sample and its card, and register it, unless it is there already."""
    folder = Path(output) if output else ROOT / "data"
    files = [folder / f"{NAME}.json", folder / f"{NAME}_prompts.json", folder / f"{NAME}.md"]
    if all(file.exists() for file in files):
        return
    found, dropped = usable(load(str(source)))
    if len(found) < pairs:
        raise BadInput(f"{len(found):,} usable pairs with distinct prompts; {pairs:,} are asked for")
    drawn = random.Random(seed).sample(found, pairs)
    write_array(files[0], drawn)
    write_array(files[1], ({"instruction": pair["instruction"]} for pair in drawn))
    for name, entry in ENTRIES.items():
        dataset_info.register(folder / "dataset_info.json", name, entry)
    write_text(files[2], card(str(source), seed, drawn, len(found), dropped))
    say(f"ultrafeedback: {pairs:,} preference pairs and their prompts in {folder}", mark="+")


if __name__ == "__main__":
    run(lambda: fire.Fire(main))
