"""UltraFeedback for the llama3 and zephyr recipes: a seeded sample of its binarized preferences.

    python scripts/data/prepare_ultrafeedback.py [--source FOLDER_OR_HUB_ID] [--pairs 10176] [--seed 42]
    python scripts/data/prepare_ultrafeedback.py --sample=paper [--source FOLDER]

With --sample=paper it is the subset that the paper's authors published, fetched, or read from a local copy of
its two files; their git blob hashes must be those of the published ones. --sample=auto takes that where it
can be had, and else the seeded sample. The card says which.

Writes data/ultrafeedback_10k.json (preferences), data/ultrafeedback_10k_prompts.json (their prompts) and
a card with counts and lengths, data/ultrafeedback_10k.md; data/dataset_info.json registers both sets
(with --output FOLDER: that folder's).
Does nothing where all three exist. Another sample replaces them only if the card is removed first.
"""

import hashlib
import json
import random
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import fire
import numpy as np

from dice.data import registry
from dice.errors import BadInput
from dice.launch.console import run, say
from dice.recipe.paths import ROOT
from dice.run.files import write_array, write_text

PAPER = "https://raw.githubusercontent.com/sail-sg/dice/865aa6db6f6755a9603e5660dbce636114fc1713"
PAPER += "/data/UF-10k-subset"
BLOBS = {  # git's names of the two published files
    "preference.json": "27dc96a24838824e2ec507c4236bd555ab38850d",
    "prompt.json": "fe0335987fae21d8cb8308c7ec69b5475fa7a969",
}
PUBLISHED = f"The subset that the paper's authors published, `{PAPER}`."
HUB_ID = "HuggingFaceH4/ultrafeedback_binarized"
SAMPLES = ("seeded", "paper", "auto")
KEYS = ("instruction", "chosen", "rejected")
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


def blob_hash(content: bytes) -> str:
    """The name that git gives to a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def published(source: str | None) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The pairs and the prompts of the paper's subset, from a folder or fetched.

    Raises BadInput where they can't be had, or are not what was published.
    """
    found = []
    for name, blob in BLOBS.items():
        place = str(Path(source) / name) if source else f"{PAPER}/{name}"
        try:
            opened = open(place, "rb") if source else urllib.request.urlopen(place, timeout=60)  # noqa: SIM115
            with opened as file:
                content = file.read()
        except (OSError, HTTPException) as error:
            raise BadInput(f"{place} can't be read: {error}") from error
        if blob_hash(content) != blob:
            raise BadInput(f"{place}: its git blob hash is {blob_hash(content)}; the published one is {blob}")
        found.append(json.loads(content))
    rows, prompts = found
    try:
        pairs = [dict(zip(KEYS, (row["instruction"], *row["output"]), strict=True)) for row in rows]
        return pairs, [{"instruction": row["instruction"]} for row in prompts]
    except (KeyError, TypeError, ValueError):
        raise BadInput("the paper's subset: a row has no instruction with an output of two answers") from None


def drawn_from(source: str, seed: int, usable: int, dropped: Counter[str]) -> list[str]:
    """Where the seeded sample comes from, for its card."""
    return [
        f"Distinct prompts, drawn with seed {seed} from the {usable:,} usable pairs",
        f"among the {usable + dropped.total():,} rows of `{source}`, split `{SPLIT}`.",
        "",
        "| rows left out | |",
        "| --- | --- |",
        *(f"| {reason} | {count:,} |" for reason, count in sorted(dropped.items())),
    ]


def card(pairs: list[dict[str, str]], origin: list[str]) -> str:
    """What the sample is and where it comes from, as Markdown."""
    lines = [
        f"# {NAME}",
        "",
        f"{len(pairs):,} preference pairs.",
        *origin,
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


def main(
    source: str | None = None,
    pairs: int = 10_176,
    seed: int = 42,
    output: str | None = None,
    sample: str = "seeded",
) -> None:
    """Write the sample and its card, and register it, unless it is there already."""
    folder = Path(output) if output else ROOT / "data"
    files = [folder / f"{NAME}.json", folder / f"{NAME}_prompts.json", folder / f"{NAME}.md"]
    if sample not in SAMPLES:
        raise BadInput(f"--sample is {sample!r}; it must be one of {', '.join(SAMPLES)}")
    if all(file.exists() for file in files):
        found = "paper" if PUBLISHED in files[2].read_text(encoding="utf-8") else "seeded"
        if sample == "auto":  # which of the two it is, nobody else says
            say(f"ultrafeedback: the {found} sample is in {folder}")
        elif sample != found:
            raise BadInput(f"--sample is {sample}; remove {files[2]} to make that one instead")
        return
    drawn = prompts = None
    if sample != "seeded":
        try:
            drawn, prompts = published(source)
            origin = [PUBLISHED]
        except BadInput as error:
            if sample == "paper":
                raise
            say(f"ultrafeedback: not the paper's sample ({error})", mark="!")
    if drawn is None:
        found, dropped = usable(load(str(source or HUB_ID)))
        if len(found) < pairs:
            raise BadInput(f"{len(found):,} usable pairs with distinct prompts; {pairs:,} are asked for")
        drawn = random.Random(seed).sample(found, pairs)
        prompts = [{"instruction": pair["instruction"]} for pair in drawn]
        origin = drawn_from(str(source or HUB_ID), seed, len(found), dropped)
    write_array(files[0], drawn)
    write_array(files[1], prompts)
    for name, entry in ENTRIES.items():
        registry.register(folder / "dataset_info.json", name, entry)
    write_text(files[2], card(drawn, origin))
    say(f"ultrafeedback: {len(drawn):,} preference pairs and their prompts in {folder}", mark="+")
    say(f"ultrafeedback: {origin[0]}")


if __name__ == "__main__":
    run(lambda: fire.Fire(main))
