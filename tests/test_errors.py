"""Counts and values in messages, for readers who know no Python."""

import pytest

from dice.errors import counted, spelled


def test_counts_agree_with_what_is_counted():
    assert [counted(n, "prompt") for n in (0, 1, 2, 2000)] == [
        "0 prompts",
        "1 prompt",
        "2 prompts",
        "2,000 prompts",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.5, "0.5"),
        ("None", "'None'"),
        ("é", "'é'"),
        ({"a": [None, "b"]}, '{"a": [null, "b"]}'),
    ],
)
def test_values_are_as_in_files(value, text):
    assert spelled(value) == text
