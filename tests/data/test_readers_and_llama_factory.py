"""LLaMA-Factory reads the same rows out of the same files."""

from pathlib import Path

import pytest
from reader_files import CHAT, ROWS, SHAREGPT, register, write_rows

from dice.data.prompts_and_preferences import read_preferences
from dice.recipe.paths import ROOT

DEMO = ROOT.parent / "shared" / "data" / "dpo_en_demo.json"


def as_llama_factory_reads(dataset_dir: str, cache: Path) -> list[tuple]:
    """(system, turns, chosen, rejected) of every row of `it`, by LLaMA-Factory's own code."""
    from dice.models.llamafactory import llamafactory

    hparams = llamafactory("hparams")
    model_args = hparams.ModelArguments(model_name_or_path="none", cache_dir=str(cache))
    data_args = hparams.DataArguments(dataset="it", dataset_dir=dataset_dir, template="llama3")
    training_args = hparams.TrainingArguments(output_dir=str(cache / "out"))
    (attributes,) = llamafactory("data.parser").get_dataset_list(["it"], dataset_dir)
    loaded = llamafactory("data.loader")._load_single_dataset(
        attributes, model_args, data_args, training_args
    )
    return [
        (row["_system"] or "", row["_prompt"], *(answer["content"] for answer in row["_response"]))
        for row in loaded
    ]


def as_we_read(dataset_dir: str) -> list[tuple]:
    pairs, dropped = read_preferences(dataset_dir, "it")
    assert not dropped
    read = []
    for pair in pairs:
        has_system = pair.messages[0]["role"] == "system"
        system = pair.messages[0]["content"] if has_system else ""
        read.append((system, pair.messages[has_system:], pair.chosen, pair.rejected))
    return read


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet", "chat.json", "chat.parquet"]
)
def test_llama_factory_reads_the_same(tmp_path, name):
    chat = name.startswith("chat")
    write_rows(tmp_path / name, [CHAT, CHAT | {"talk": CHAT["talk"][1:2]}] if chat else ROWS)
    folder = register(tmp_path, {"file_name": name, **(SHAREGPT if chat else {})})
    assert as_we_read(folder) == as_llama_factory_reads(folder, tmp_path / "cache")


@pytest.mark.slow
@pytest.mark.skipif(not DEMO.exists(), reason=f"{DEMO} is not here")
def test_llama_factory_reads_the_same_of_three_hundred_real_rows(tmp_path):
    (tmp_path / "demo.json").write_bytes(DEMO.read_bytes())
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
    folder = register(tmp_path, {"file_name": "demo.json", "formatting": "sharegpt", "columns": columns})
    ours = as_we_read(folder)
    assert len(ours) == 300 and ours == as_llama_factory_reads(folder, tmp_path / "cache")
