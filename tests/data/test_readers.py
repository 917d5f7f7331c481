"""Every kind of file and place that dataset_info.json may name."""

import hashlib
import json
import tracemalloc

import pytest
from reader_files import CHAT, PROMPTS, ROWS, SHAREGPT, questions, register, write_rows

from dice.data import dataset_info, readers
from dice.data.dataset_info import Source
from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import BadInput


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Where `datasets` keeps what it made of a Hub set: nowhere that outlives the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.csv", "rows.parquet"])
def test_alpaca_from_every_kind_of_file(tmp_path, name):
    write_rows(tmp_path / name, ROWS)
    pairs, dropped = read_preferences(register(tmp_path, {"file_name": name}), "it")
    assert questions(pairs) == PROMPTS and not dropped
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [
        ("hi, hi", "no"),
        ("oui", "non"),
        ("yes", "no"),
    ]
    assert pairs[0].messages[0] == {"role": "system", "content": "Be kind."}
    assert pairs[1].messages[0]["role"] == "user"


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl", "rows.parquet"])
def test_sharegpt_from_every_kind_of_file_that_has_lists(tmp_path, name):
    write_rows(tmp_path / name, [CHAT, CHAT | {"talk": CHAT["talk"][1:2]}])
    pairs, _ = read_preferences(register(tmp_path, {"file_name": name, **SHAREGPT}), "it")
    roles = [[message["role"] for message in pair.messages] for pair in pairs]
    assert roles == [["system", "user", "assistant", "user"], ["user"]]
    assert (pairs[0].chosen, pairs[0].rejected) == ("yes", "no")


def test_history_from_parquet(tmp_path):
    write_rows(tmp_path / "rows.parquet", [{"q": "Now?", "past": [["Hi", "Hello"]]}])
    entry = {"file_name": "rows.parquet", "ranking": False, "columns": {"prompt": "q", "history": "past"}}
    (prompt,), _ = read_prompts(register(tmp_path, entry), "it")
    assert [message["content"] for message in prompt.messages] == ["Hi", "Hello", "Now?"]


def test_a_folder_is_read_file_by_file(tmp_path):
    write_rows(tmp_path / "rows" / "b.jsonl", ROWS[2:])
    write_rows(tmp_path / "rows" / "a.json", ROWS[:2])
    (tmp_path / "rows" / ".hidden").write_text("x")
    pairs, _ = read_preferences(register(tmp_path, {"file_name": "rows"}), "it")
    assert questions(pairs) == PROMPTS
    write_rows(tmp_path / "rows" / "c.csv", ROWS)
    with pytest.raises(BadInput, match="rows must hold files of one type"):
        read_preferences(register(tmp_path, {"file_name": "rows"}), "it")


def test_an_empty_folder(tmp_path):
    (tmp_path / "rows").mkdir()
    with pytest.raises(BadInput, match="rows must hold files of one type, at least one"):
        read_preferences(register(tmp_path, {"file_name": "rows"}), "it")


def test_a_seeded_sample_of_the_rows(tmp_path):
    write_rows(tmp_path / "rows.jsonl", [ROWS[2] | {"q": f"{i}"} for i in range(50)])
    folder = register(tmp_path, {"file_name": "rows.jsonl", "num_samples": 20})
    drawn = questions(read_preferences(folder, "it")[0])
    assert len(set(drawn)) == 20 and drawn == sorted(drawn, key=int) != [str(i) for i in range(20)]
    assert questions(read_preferences(folder, "it")[0]) == drawn
    folder = register(tmp_path, {"file_name": "rows.jsonl", "num_samples": 999})
    assert len(read_preferences(folder, "it")[0]) == 50  # no row twice


def test_a_part_of_a_split(tmp_path):
    write_rows(tmp_path / "rows.jsonl", ROWS)
    folder = register(tmp_path, {"file_name": "rows.jsonl", "split": "train[1:]"})
    assert questions(read_preferences(folder, "it")[0]) == PROMPTS[1:]


def test_a_copy_of_a_hub_set(tmp_path, hub_cache):
    """With a split, a subset (a folder of its own in the card), a folder and a sample."""
    hub = tmp_path / "hub"
    write_rows(hub / "first" / "train.parquet", ROWS[:2])
    write_rows(hub / "first" / "test.parquet", ROWS[2:])
    write_rows(hub / "second" / "train.parquet", ROWS[1:])
    configs = [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": f"{name}/{split}.parquet"} for split in splits],
        }
        for name, splits in (("first", ("train", "test")), ("second", ("train",)))
    ]
    (hub / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")

    def read(**keys):
        return questions(read_preferences(register(tmp_path, {"hf_hub_url": str(hub), **keys}), "it")[0])

    assert read(subset="first") == PROMPTS[:2]
    assert read(subset="first", split="test") == PROMPTS[2:]
    assert read(subset="second") == PROMPTS[1:]
    assert len(read(subset="second", num_samples=1)) == 1
    (hub / "README.md").unlink()
    assert read(folder="first") == PROMPTS[:2]
    with pytest.raises(BadInput, match="it: .*hub' can't be loaded: Unknown split \"dev\""):
        read(folder="first", split="dev")
    before = dataset_info.digest(str(tmp_path), "it")
    write_rows(hub / "first" / "train.parquet", ROWS)
    assert dataset_info.digest(str(tmp_path), "it") != before


def test_a_hub_set_that_is_not_there(tmp_path, hub_cache):
    with pytest.raises(BadInput, match="it: 'no-such/set' can't be loaded: "):
        read_preferences(register(tmp_path, {"hf_hub_url": "no-such/set"}), "it")


def test_a_sha1_is_checked(tmp_path):
    write_rows(tmp_path / "rows.json", ROWS)
    sha1 = hashlib.sha1((tmp_path / "rows.json").read_bytes()).hexdigest()
    entry = {"file_name": "rows.json", "file_sha1": sha1}
    assert len(read_preferences(register(tmp_path, entry), "it")[0]) == 3
    write_rows(tmp_path / "rows.json", ROWS[:2])
    with pytest.raises(BadInput, match=f"rows.json: its sha1 is .*, not the file_sha1 .*, {sha1}"):
        read_preferences(register(tmp_path, entry), "it")


@pytest.mark.slow
def test_a_row_of_fifty_megabytes(tmp_path):
    huge = "ü" * 25_000_000
    for name in ("rows.jsonl", "rows.csv"):
        write_rows(tmp_path / name, [ROWS[0] | {"good": huge}, ROWS[1]])
        pairs, _ = read_preferences(register(tmp_path, {"file_name": name}), "it")
        assert pairs[0].chosen == huge and len(pairs) == 2


BAD_FILES = {
    "too many cells": (
        "rows.csv",
        b"q,good,bad\na,b,c\n1,2,3,4\n",
        "rows.csv:3: more cells than the 3 columns",
    ),
    "an open quote": (
        "rows.csv",
        b'q,good,bad\na,b,c\n"1,2,3\n',
        "rows.csv:3: not CSV (unexpected end of data)",
    ),
    "too few cells": ("rows.csv", b"q,good,bad\na,b\n", "rows.csv:2: rejected is null; it must be text"),
    "no column": ("rows.csv", b"Q,good,bad\na,b,c\n", "rows.csv:2: no column 'q'"),
    "broken UTF-8": ("rows.csv", b"q,good,bad\na,b,\xff\n", "rows.csv:2: not UTF-8"),
    "broken lines": ("rows.jsonl", b'{"q": "a"}\n{"q": "\xff"}\n', "rows.jsonl:2: not UTF-8"),
    "no Parquet": (
        "rows.parquet",
        b"PAR1 but nothing more",
        "rows.parquet: not a Parquet file that can be read",
    ),
    "nothing": ("rows.csv", b"", "has no usable pair (it has no rows)"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content)
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    with pytest.raises(BadInput) as caught:
        read_preferences(register(tmp_path, {"file_name": name, "columns": columns}), "it")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "arguments", "value"),
    [("date32", (), 2**30), ("timestamp", ("ms",), 2**58), ("timestamp", ("ms", "Nowhere/None"), 1)],
)
def test_a_parquet_file_with_a_time_that_python_does_not_have(tmp_path, kind, arguments, value):
    import pyarrow
    import pyarrow.parquet

    when = pyarrow.array([value], getattr(pyarrow, kind)(*arguments))
    pyarrow.parquet.write_table(pyarrow.table({"q": ["Hi"], "at": when}), tmp_path / "rows.parquet")
    entry = {"file_name": "rows.parquet", "columns": {"prompt": "q"}}
    with pytest.raises(BadInput, match="rows.parquet: not a Parquet file that can be read"):
        read_prompts(register(tmp_path, entry), "it")


@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_file_that_repeats_a_long_text_takes_little_memory(tmp_path, nested):
    """A file of a kilobyte whose 200 rows are 200 MB; read at once, and held, that is 400 MB."""
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.DictionaryArray.from_arrays([0] * 200, ["x" * 1_000_000])
    if nested:
        text = pyarrow.StructArray.from_arrays([text], ["value"])
    path = tmp_path / "rows.parquet"
    little = {"write_statistics": False, "compression": "zstd", "store_schema": False}
    pyarrow.parquet.write_table(pyarrow.table({"q": text}), path, **little)
    assert path.stat().st_size < 2000
    rows, arrow = [], 0
    tracemalloc.start()
    for _, row in readers.read(Source("it", tmp_path / "dataset_info.json", {"file_name": path.name})):
        rows.append(row)
        arrow = max(arrow, pyarrow.total_allocated_bytes())
    _, python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(rows) == 200 and arrow < 100e6 and python < 100e6


def test_line_ends_within_a_cell_are_kept(tmp_path):
    """As LLaMA-Factory keeps them."""
    (tmp_path / "rows.csv").write_bytes(b'q\r\n"a\r\nb\rc\nd"\r\n')
    (prompt,), _ = read_prompts(
        register(tmp_path, {"file_name": "rows.csv", "columns": {"prompt": "q"}}), "it"
    )
    assert prompt.messages[0]["content"] == "a\r\nb\rc\nd"


def test_a_number_in_a_parquet_file_is_no_text(tmp_path):
    write_rows(tmp_path / "rows.parquet", [ROWS[0] | {"q": 5}])
    with pytest.raises(BadInput, match="rows.parquet: row 1: the prompt is 5; it must be text"):
        read_preferences(register(tmp_path, {"file_name": "rows.parquet"}), "it")
