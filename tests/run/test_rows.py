"""Rows: what is written is read back, and what is not a row is refused."""

import json

import pytest

from dice.errors import BadInput
from dice.run.rows import Prompt, Score, from_line, prompt_id, to_line


def test_prompt_ids_are_a_hash_of_the_messages_alone():
    messages = [{"role": "user", "content": "Hi there"}]
    # sha256 of [{"content":"Hi there","role":"user"}], computed with sha256sum
    assert prompt_id(messages) == "7ffc9a8ec0ca0702"
    assert prompt_id([{"content": "Hi there", "role": "user", "extra": 1}]) == prompt_id(messages)
    assert prompt_id([{"role": "user", "content": "Hi there "}]) != prompt_id(messages)


@pytest.mark.parametrize(
    "text", ["plain", 'quotes " and \\', "two\nlines", "naïve 漢字 🎲", "\ud800", "\u2028"]
)
def test_rows_survive_the_file(text):
    row = Prompt("0" * 16, [{"role": "user", "content": text}])
    line = to_line(row)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert from_line(Prompt, line, "f:1") == row


SCORE = {
    "prompt_id": "a",
    "sample": 0,
    "ids_hash": "",
    "n_chars": 1,
    "n_tokens": 1,
    "logp_policy": -1.0,
    "logp_ref": -1,
    "reward": 0.0,
}


def test_whole_numbers_will_do_for_floats():
    assert from_line(Score, json.dumps(SCORE), "f:1").logp_ref == -1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "f:3: not JSON"),
        ("[]", "f:3: not a Score row; its columns are prompt_id, sample"),
        (json.dumps({"prompt_id": "a"}), "f:3: not a Score row"),
        (json.dumps({**SCORE, "more": 1}), "f:3: not a Score row"),
        (json.dumps({**SCORE, "reward": "high"}), "f:3: column 'reward' is 'high', not a number"),
        (json.dumps({**SCORE, "sample": True}), "f:3: column 'sample' is true, not a whole number"),
    ],
)
def test_what_is_not_a_row_is_refused(line, message):
    with pytest.raises(BadInput) as caught:
        from_line(Score, line, "f:3")
    assert message in str(caught.value)


def test_half_a_character_as_a_key_is_refused():
    line = '{"prompt_id": "a", "messages": [{"role": "user", "\\ud800": "Hi"}]}'
    with pytest.raises(BadInput, match="here:1: "):
        from_line(Prompt, line, "here:1")
