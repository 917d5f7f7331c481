"""UltraFeedback for the llama3 and zephyr recipes: a seeded sample of its binarized preferences.

    python scripts/data/prepare_ultrafeedback.py [--source FOLDER_OR_HUB_ID] [--pairs 10176] [--seed 42]

Writes data/ultrafeedback_10k.json (preferences) and data/ultrafeedback_10k_prompts.json (their
prompts), which data/dataset_info.json registers. Does nothing where both exist.
"""

import random
from pathlib import Path
from typing import Any

import fire

from dice import store
from dice.console import run, say
from dice.errors import BadInput
from dice.recipe import ROOT

HUB_ID = "HuggingFaceH4/ultrafeedback_binarized"
SPLIT = "train_prefs"


def load(source: str) -> list[dict[str, Any]]:
    """Rows of the preference split, from the Hub or from a local copy of its files."""
    from datasets import load_dataset

    try:
        if not Path(source).exists():
            return list(load_dataset(source, split=SPLIT))
        files = sorted(str(path) for path in Path(source).rglob(f"{SPLIT}*") if path.is_file())
        if not files:
            raise BadInput(f"{source}: no file named {SPLIT}*; it must be a copy of {HUB_ID}")
        kind = "parquet" if files[0].endswith(".parquet") else "json"
        return list(load_dataset(kind, data_files=files, split="train"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{source} can't be loaded: {str(error).strip().splitlines()[0]}") from error


def preference(row: dict[str, Any]) -> dict[str, str] | None:
    """A row as LLaMA-Factory's alpaca ranking format, or None where it is of no use."""
    turns = [row["chosen"], row["rejected"]]
    if any(len(side) != 2 or side[0]["content"] != row["prompt"] for side in turns):
        return None
    chosen, rejected = (side[1]["content"] for side in turns)
    if chosen == rejected or not row["prompt"].strip():
        return None
    return {"instruction": row["prompt"], "chosen": chosen, "rejected": rejected}


def sample(rows: list[dict[str, Any]], pairs: int, seed: int) -> list[dict[str, str]]:
    """`pairs` preferences with distinct prompts. Raises BadInput where there are too few."""
    distinct = {p["instruction"]: p for p in map(preference, rows) if p}
    if len(distinct) < pairs:
        raise BadInput(f"{len(distinct):,} usable pairs with distinct prompts; {pairs:,} are asked for")
    return random.Random(seed).sample(list(distinct.values()), pairs)


def main(source: str = HUB_ID, pairs: int = 10_176, seed: int = 42, output: str | None = None) -> None:
    """Write the sample, unless it is there already."""
    folder = Path(output) if output else ROOT / "data"
    files = [folder / "ultrafeedback_10k.json", folder / "ultrafeedback_10k_prompts.json"]
    if all(file.exists() for file in files):
        return
    chosen = sample(load(source), pairs, seed)
    prompts = [{"instruction": pair["instruction"]} for pair in chosen]
    for file, rows in zip(files, (chosen, prompts), strict=True):
        store.write_array(file, rows)
    say(f"ultrafeedback: {pairs:,} preference pairs and their prompts in {folder}", mark="+")


if __name__ == "__main__":
    run(lambda: fire.Fire(main))
