"""The readers that are fuzzed: data sets in every format, and the files of a round."""

import csv
import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pyarrow
import pyarrow.parquet
import safetensors.numpy
from fuzz_input import Input, Read, nothing, reader
from fuzz_values import as_json, as_lines

from dice.data import answers
from dice.data import round as round_data
from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.data.round import read_answers, read_scores
from dice.launch.worker import Worker
from dice.models import trainer
from dice.models.reference_table import ReferenceTable, from_scores
from dice.pairing.table import Table
from dice.recipe.keys import Recipe
from dice.recipe.load import load_recipe
from dice.rewards import scoring
from dice.run import files
from dice.run.rows import Dropped
from dice.run.run import Run

ALPACA = {
    "instruction": "Say hi",
    "input": "",
    "chosen": "hi",
    "rejected": "no",
    "system": "",
    "history": [["a", "b"]],
    "response": "fine",
}
TURNS = [{"from": "system", "value": "s"}, {"from": "human", "value": "Hi"}]
SHAREGPT = {
    "conversations": TURNS,
    "chosen": {"from": "gpt", "value": "y"},
    "rejected": {"from": "gpt", "value": "n"},
}
CONVERSATIONS = {
    "prompt": "Hi",
    "system": "s",
    "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "y"}],
    "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "n"}],
    "response": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "y", "tool_calls": []}],
}
ENTRIES = {
    "alpaca": {
        "ranking": True,
        "columns": {
            "prompt": "instruction",
            "query": "input",
            "chosen": "chosen",
            "rejected": "rejected",
            "system": "system",
            "history": "history",
        },
    },
    "sharegpt": {
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"},
        "tags": {"role_tag": "from", "user_tag": "human"},
    },
}
KINDS = ("json", "jsonl", "csv", "parquet")


def data_file(given: Input, path: Path, row: dict[str, Any]) -> str:
    """A file of rows like this one, in the format of its name."""
    rows = given.near([row, row | {"chosen": "other"}, row])
    if path.suffix == ".json":
        return given.file(path, as_json(given.rng, rows))
    if path.suffix == ".jsonl":
        return given.file(path, as_lines(given.rng, rows))
    rows = [found for found in rows if isinstance(found, dict)] if isinstance(rows, list) else []
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(row)
        writer.writerows(found.values() for found in rows)
        return given.file(path, text.getvalue().encode("utf-8", "surrogatepass"))
    target = pyarrow.BufferOutputStream()
    try:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), target)
    except (pyarrow.ArrowException, UnicodeEncodeError, TypeError, OverflowError, AttributeError):
        return given.file(path, b"PAR1")  # what Parquet can't hold
    return given.file(path, target.getvalue().to_pybytes())


def data_set(given: Input, folder: Path, near_entry: bool) -> str:
    """A data folder with the set `it`: its entry or its rows out of shape."""
    kind, shape = given.rng.choice(KINDS), given.rng.choice([*ENTRIES])
    entry = {"file_name": f"rows.{kind}", **ENTRIES[shape]}
    row = ALPACA if shape == "alpaca" else SHAREGPT
    if near_entry:
        (folder / f"rows.{kind}").write_bytes(as_json(given.rng, [row]))
        extra = {"num_samples": 2, "split": "train[:1]", "file_sha1": "0", "subset": "x", "folder": "y"}
        entry |= {key: value for key, value in extra.items() if given.chance(0.15)}
        return given.json(folder / "dataset_info.json", {"it": entry, "other": {"hf_hub_url": "a/b"}})
    (folder / "dataset_info.json").write_bytes(as_json(given.rng, {"it": entry}))
    return f"{shape} {data_file(given, folder / f'rows.{kind}', row)}"


def read_set(folder: Path, read: Callable[[str, str], tuple[list, Any]]) -> int:
    rows, dropped = read(str(folder), "it")
    assert rows, "neither rows nor a word"
    files.write_rows(folder / "out.jsonl", rows)  # what was read can be written and read again
    assert len(list(files.read_rows(folder / "out.jsonl", type(rows[0])))) == len(rows)
    return dropped.total()


@reader("dataset_info.json")
def dataset_info(given: Input, folder: Path) -> tuple[str, Read]:
    return data_set(given, folder, near_entry=True), lambda: read_set(folder, read_prompts)


@reader("prompts")
def prompts(given: Input, folder: Path) -> tuple[str, Read]:
    return data_set(given, folder, near_entry=False), lambda: read_set(folder, read_prompts)


@reader("preferences")
def preferences(given: Input, folder: Path) -> tuple[str, Read]:
    return data_set(given, folder, near_entry=False), lambda: read_set(folder, read_preferences)


@reader("answers (dice score FILE)")
def answered(given: Input, folder: Path) -> tuple[str, Read]:
    path = folder / f"rows.{given.rng.choice(KINDS)}"
    rows = [ALPACA, SHAREGPT, CONVERSATIONS, {"messages": ROUND_MESSAGES, "responses": ["a"]}]
    what = data_file(given, path, given.rng.choice(rows))
    return what, lambda: answers.read_answers(str(path), str(folder))[1].total()


@reader("pairs (dice reward FILE)")
def labelled(given: Input, folder: Path) -> tuple[str, Read]:
    path = folder / f"rows.{given.rng.choice(KINDS)}"
    what = data_file(given, path, given.rng.choice([ALPACA, SHAREGPT, CONVERSATIONS]))
    return what, lambda: answers.read_pairs(str(path), str(folder))[1].total()


ROUND_MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hi"}]
IDS = ["0" * 16, "1" * 16]
PROMPTS = [{"prompt_id": name, "messages": ROUND_MESSAGES} for name in IDS]
RESPONSES = [
    {
        "prompt_id": name,
        "sample": sample,
        "response": "fine",
        "n_chars": 4,
        "n_tokens": 5,
        "finish_reason": "stop",
        "seed": 7,
    }
    for name in IDS
    for sample in range(2)
]
SCORES = [
    {
        "prompt_id": name,
        "sample": sample,
        "ids_hash": "ab" * 16,
        "n_chars": 4,
        "n_tokens": 5,
        "logp_policy": -1.0,
        "logp_ref": -2.0,
        "reward": 1.0,
    }
    for name in IDS
    for sample in range(2)
]
PAIRS = [
    {
        "prompt_id": name,
        "messages": ROUND_MESSAGES,
        "chosen": "a",
        "rejected": "b",
        "chosen_sample": 0,
        "rejected_sample": 1,
        "chosen_reward": 1.0,
        "rejected_reward": 0.0,
        "chosen_shaped": 1.0,
        "rejected_shaped": 0.0,
    }
    for name in IDS
]


def scored(folder: Path) -> Table:
    (folder / "scores").mkdir(exist_ok=True)
    return read_scores(folder / "scores", IDS, 2)


@reader("prompts.jsonl")
def round_prompts(given: Input, folder: Path) -> tuple[str, Read]:
    what = given.lines(folder / "prompts.jsonl", PROMPTS)
    return what, lambda: nothing(list(round_data.read_prompts(folder / "prompts.jsonl")))


@reader("responses")
def responses(given: Input, folder: Path) -> tuple[str, Read]:
    what = given.lines(folder / "responses" / "part-00000.jsonl", RESPONSES)

    def read() -> int:
        wanted = np.ones((2, 2), bool)
        return nothing(read_answers(folder / "responses", scored(folder), wanted))

    return what, read


@cache
def recipe() -> Recipe:
    """What responses are scored with: no models, short texts."""
    limits = ["score.cutoff_len=50", "pair.min_chars=1", "pair.max_chars=99"]
    return load_recipe("tiny", ["generate.engine=fake", "policy=a", "reference=b", *limits])


@reader("responses, to be scored")
def responses_scored(given: Input, root: Path) -> tuple[str, Read]:
    folder = root / "round-1"
    files.write_text(folder / "prompts.jsonl", as_lines(given.rng, PROMPTS).decode())
    what = given.lines(folder / "responses" / "part-00000.jsonl", RESPONSES)
    run = Run(root, recipe())

    def read() -> int:
        scoring.score_shards(Worker(0, 1, 0, folder / "progress"), run, 1)
        return sum(isinstance(row, Dropped) for row in scoring.scored(run, 1))

    return what, read


@reader("scores")
def scores(given: Input, folder: Path) -> tuple[str, Read]:
    what = given.lines(folder / "scores" / "part-00000.jsonl", SCORES)
    return what, lambda: nothing(scored(folder))


@reader("pairs.jsonl")
def round_pairs(given: Input, folder: Path) -> tuple[str, Read]:
    files.write_text(folder / "scores.jsonl", as_lines(given.rng, SCORES).decode())
    what = given.lines(folder / "pairs.jsonl", PAIRS)
    return what, lambda: nothing(
        from_scores(folder / "pairs.jsonl", [folder / "scores.jsonl"]).save(folder / "x")
    )


@reader("reference table")
def reference_table(given: Input, folder: Path) -> tuple[str, Read]:
    rows = given.rng.randint(0, 3)
    arrays = {"hashes": np.zeros((rows, 16), np.uint8), "logps": np.zeros(rows)}
    if given.chance(0.5):
        name = given.rng.choice([*arrays])
        shape = given.draw(st.lists(st.integers(0, 4), max_size=3))
        odd = np.full(shape, given.rng.choice([0, 1, np.nan]) if name == "logps" else 0)
        with np.errstate(invalid="ignore"):
            arrays[name] = odd.astype(
                given.rng.choice([np.uint8, np.float64, np.float16, np.int64, np.bool_])
            )
    if given.chance(0.1):
        del arrays[given.rng.choice([*arrays])]
    what = given.file(folder / "table.safetensors", safetensors.numpy.save(arrays))

    def read() -> int:
        found = ReferenceTable.load(folder / "table.safetensors")
        assert all(len(key) == 32 and np.isfinite(value) for key, value in found.items())
        return 0

    return what, read


@reader("complete.json of a checkpoint")
def complete(given: Input, folder: Path) -> tuple[str, Read]:
    checkpoint = folder / "train" / "checkpoint-5"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_text("weights")
    (folder / "outside").write_text("stays")
    trainer.mark_complete(checkpoint, "policy", 2)
    marker = files.read_json(checkpoint / trainer.COMPLETE)
    what = given.json(checkpoint / trainer.COMPLETE, marker)

    def read() -> int:
        if given.rng.random() < 0.5:
            trainer.check_processes(folder / "train", 2)
        trainer.last_complete(folder / "train")
        assert (folder / "outside").exists()
        return 0

    return what, read
