"""Counts and values in messages, for readers who know no Python."""

import pytest

from dice.errors import counted, first_line, spelled


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


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("no such file\nthe above report has more", "no such file"),
        (
            "Error(s) in loading:\n\n\tsize mismatch for a: b\n\tsize mismatch for c",
            "Error(s) in loading: size mismatch for a: b",
        ),
        ("only a heading:", "only a heading:"),
        ("\n \n", "ValueError"),
    ],
)
def test_what_a_library_says_in_one_line(said, line):
    assert first_line(ValueError(said)) == line
