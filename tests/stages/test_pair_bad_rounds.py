"""Stage 1.3 on rounds whose files are broken: the file and line are named, and nothing is written."""

import json

import pytest

from dice.errors import BadInput
from dice.run import files
from dice.stages import pair
from dice.stages.order import execute


def rewrite(run, name, change):
    """Replace the rows of a shard, as dicts, by what `change` makes of them; NaN is written as NaN."""
    path = files.shard_path(run.round_dir(1) / name, 0)
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


BAD_ROWS = {
    "scored twice": (
        "scores",
        lambda rows: [*rows, rows[0]],
        "part-00000.jsonl:3: sample 0 of its prompt is scored twice",
    ),
    "a score of no prompt": (
        "scores",
        lambda rows: [rows[0], {**rows[1], "prompt_id": "?"}],
        "part-00000.jsonl:2: scores a response that was not sampled",
    ),
    "a score of no sample": (
        "scores",
        lambda rows: [{**rows[0], "sample": 99}],
        "part-00000.jsonl:1: scores a response that was not sampled",
    ),
    "not a number": (
        "scores",
        lambda rows: [rows[0], {**rows[1], "reward": float("nan")}],
        "part-00000.jsonl:2: reward is nan; it must be a finite number",
    ),
    "without end": (
        "scores",
        lambda rows: [{**rows[0], "reward": float("inf")}],
        "part-00000.jsonl:1: reward is inf; it must be a finite number",
    ),
    "no length": (
        "scores",
        lambda rows: [{**rows[0], "n_chars": 10**12}],
        "part-00000.jsonl:1: 1000000000000 chars and 1 tokens are no lengths",
    ),
    "no response": (
        "responses",
        lambda rows: rows[:1],
        "responses: sample 1 of prompt",
    ),
    "the same response twice": (
        "responses",
        lambda rows: [*rows, rows[1]],
        "part-00000.jsonl:3: sample 1 of its prompt is there twice",
    ),
    "a response to no prompt": (
        "responses",
        lambda rows: [*rows, {**rows[1], "prompt_id": "?"}],
        "part-00000.jsonl:3: a response to no prompt of the round, or of no sample",
    ),
    "a response that is no text": (
        "responses",
        lambda rows: [rows[0], {**rows[1], "response": 5}],
        "part-00000.jsonl:2: column 'response' is 5, not text",
    ),
    "a response without its length": (
        "responses",
        lambda rows: [{key: value for key, value in rows[0].items() if key != "n_chars"}],
        "part-00000.jsonl:1: not a Response row; its columns are prompt_id, sample, response",
    ),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows_are_named_and_nothing_is_written(round_of, case):
    run = round_of({"q": [("good", 1.0), ("bad", 0.0)]}, min_samples=2)
    name, change, message = BAD_ROWS[case]
    rewrite(run, name, change)
    with pytest.raises(BadInput) as caught:
        execute(pair.STAGE, run, 1)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (run.round_dir(1) / "pairs.jsonl").exists()
    assert not list(run.path.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["responses", "scores", "prompts"])
def test_broken_utf8_is_named(round_of, name):
    run = round_of({"q": [("good", 1.0), ("bad", 0.0)]}, min_samples=2)
    folder = run.round_dir(1)
    path = folder / "prompts.jsonl" if name == "prompts" else files.shard_path(folder / name, 0)
    content = path.read_bytes()
    broken = {"responses": b"bad", "scores": content[15:18], "prompts": b'"q"'}[name]
    path.write_bytes(content.replace(broken, b"\xff" * 3 if name != "prompts" else b'"\xff"'))
    with pytest.raises(BadInput, match=r"jsonl:[12]: not UTF-8 \(invalid start byte at byte \d+ of the"):
        execute(pair.STAGE, run, 1)


def test_a_prompt_that_is_there_twice_is_named(round_of):
    run = round_of({"q": [("good", 1.0), ("bad", 0.0)]}, min_samples=2)
    path = run.round_dir(1) / "prompts.jsonl"
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(BadInput, match="prompts.jsonl:2: prompt .* is there twice"):
        execute(pair.STAGE, run, 1)
