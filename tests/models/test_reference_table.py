"""The table of reference log-probs: what a row is known by, what a file is, what scores fill in."""

import json
import math

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from dice.errors import BadInput
from dice.models.reference_table import IGNORED, ReferenceTable, from_scores, response_hash, row_hash
from dice.run import files
from dice.run.rows import Pair, Score

ids = st.lists(st.integers(0, 200_000), max_size=20)


@given(ids, ids)
def test_scoring_and_training_know_a_row_by_the_same_hash(prompt, response):
    """Training sees ids and labels as arrays, scoring prompt and response as lists."""
    row = np.array(prompt + response, dtype=np.int64)
    labels = np.array([IGNORED] * len(prompt) + response, dtype=np.int64)
    assert row_hash(row, labels) == response_hash(prompt, response)


@given(ids, ids, ids, ids)
def test_other_ids_or_another_split_are_another_row(prompt, response, other_prompt, other_response):
    same = (prompt, response) == (other_prompt, other_response)
    assert (response_hash(prompt, response) == response_hash(other_prompt, other_response)) == same


def test_a_response_split_elsewhere_is_another_row():
    assert response_hash([1, 2], [3]) != response_hash([1], [2, 3])


@given(st.dictionaries(ids.map(lambda row: row_hash(row, row)), st.floats(-1e6, 0)))
def test_a_table_comes_back_as_it_was_saved(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "reference.safetensors"
    ReferenceTable(rows).save(path)
    assert ReferenceTable.load(path) == rows


def test_what_is_no_table_is_refused(tmp_path):
    with pytest.raises(BadInput, match="nowhere: no such file"):
        ReferenceTable.load(tmp_path / "nowhere")
    (tmp_path / "text").write_text("not a table")
    with pytest.raises(BadInput, match="text: not a table of reference log-probs"):
        ReferenceTable.load(tmp_path / "text")
    ReferenceTable({"00" * 16: -1.0, "11" * 16: -2.0}).save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-9])
    with pytest.raises(BadInput, match="cut: not a table"):
        ReferenceTable.load(tmp_path / "cut")


def hash_of(prompt, sample):
    return f"{prompt}{sample}".zfill(32)


def write_round(folder, scores):
    pair = Pair("a", [], "x", "y", 2, 0, 0.0, 0.0, 0.0, 0.0)
    files.write_rows(folder / "pairs.jsonl", [pair])
    for shard, keys in enumerate(scores):
        rows = [Score(*key, hash_of(*key), 1, 1, -key[1] - 0.5, 0.0, 0.0) for key in keys]
        files.write_rows(files.shard_path(folder / "scores", shard), rows)
    return folder / "pairs.jsonl", files.shards(folder / "scores")


def test_the_scores_of_a_rounds_pairs(tmp_path):
    table = from_scores(*write_round(tmp_path, [[("b", 0), ("a", 0)], [("a", 1), ("a", 2)]]))
    assert table == {
        hash_of("a", 0): -0.5,
        hash_of("a", 2): -2.5,
    }  # what is paired, and the policy's log-prob


def test_a_pair_without_a_score_is_named(tmp_path):
    with pytest.raises(BadInput, match="pairs.jsonl: prompt a sample 2 has no score"):
        from_scores(*write_round(tmp_path, [[("a", 0)]]))


@pytest.mark.parametrize(
    ("hashes", "logps", "reason"),
    [
        (np.zeros((1, 16), np.uint8), np.float64(1), "logps float64 ()"),
        (np.zeros((1, 16), np.uint8), np.zeros(2), "hashes uint8 (1, 16), logps float64 (2,)"),
        (np.zeros((2, 8), np.uint8), np.zeros(2), "hashes uint8 (2, 8)"),
        (np.zeros((1, 16), np.float32), np.zeros(1), "hashes float32"),
        (np.zeros((1, 16), np.uint8), np.array([np.nan]), "a reference log-prob is no finite number"),
    ],
)
def test_a_table_of_other_shapes_is_refused(tmp_path, hashes, logps, reason):
    arrays = {"hashes": hashes, "logps": np.asarray(logps)}
    (tmp_path / "table").write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(BadInput) as caught:
        ReferenceTable.load(tmp_path / "table")
    assert reason in str(caught.value)


@pytest.mark.parametrize("changes", [{"ids_hash": "g" * 32}, {"ids_hash": ""}, {"logp_policy": math.nan}])
def test_a_score_that_is_none_is_named(tmp_path, changes):
    pairs, (shard,) = write_round(tmp_path, [[("a", 0), ("a", 2)]])
    rows = [json.loads(line) for line in shard.read_text().splitlines()]
    shard.write_text("".join(json.dumps(row) + "\n" for row in (rows[0], rows[1] | changes)))
    with pytest.raises(BadInput, match="part-00000.jsonl:2: ids_hash or logp_policy is none"):
        from_scores(pairs, [shard])
