"""What a report says, piece by piece: the verdict, words made harmless, and what its figures are drawn of."""

import json
import math

import numpy as np
import pytest
from reported import write_manifest, write_round

from dice.stages.evaluate import Result
from dice.tools.report import figures, tables
from dice.tools.report.collect import Collected, collect
from dice.tools.report.difference import differences
from dice.tools.report.svg import Colour, canvas, drawing, legend, to_svg
from dice.tools.report.text import clipped, duration, embedded, minus, visible
from dice.tools.report.verdict import verdict


@pytest.fixture
def run(fake_run):
    """Round 1 finished, round 2 not begun, nothing judged."""
    write_round(fake_run)
    return fake_run


@pytest.mark.parametrize(
    ("rounds", "mood", "says"),
    [
        ([(0.6, 0.55, 0.02, 100.0)], "good", "It worked so far"),
        ([(0.6, 0.53, 0.02, 100.0)], "open", "No clear difference"),  # 50% is within two standard errors
        ([(0.4, 0.45, 0.02, 100.0)], "bad", "It got worse so far"),
        ([(0.6, 0.9, math.nan, 100.0)], "open", "on too few prompts"),
        ([(0.6, 0.6, 0.02, 130.0)], "good", "(+30%): part of the win may be length"),
        ([(0.6, 0.6, 0.02, 70.0)], "good", "(-30%): much shorter than before"),
        ([(0.6, 0.6, 0.02, 100.0), (0.6, 0.57, 0.02, 100.0)], "good", "best one: round 1 wins 60.0%"),
        ([], "open", "no round's model has been judged"),
    ],
)
def test_the_verdict(run, rounds, mood, says):
    start = [Result("SFT", 0.4, 0.3, 0.01, 90.0), Result("DPO", 0.5, None, None, 100.0)]
    results = start + [Result(f"round-{t}", *row) for t, row in enumerate(rounds, 1)]
    found = verdict(Collected(run, collect(run).rounds, collect(run).evaluation, results, []))
    assert found.mood == mood
    assert says in " ".join([found.headline, *found.details])


def test_an_earlier_round_that_is_as_good_is_not_called_better(run):
    results = [Result("DPO", 0.5, None, None, 100.0)]
    results += [Result("round-1", 0.6, 0.61, 0.02, 100.0), Result("round-2", 0.6, 0.6, 0.02, 100.0)]
    found = verdict(Collected(run, collect(run).rounds, collect(run).evaluation, results, []))
    assert "best one" not in " ".join(found.details)


def test_a_recipe_without_a_judge_is_told_apart(run):
    run.recipe.evaluate.judge = run.recipe.evaluate.prompts = None
    assert "this recipe has no judge" in verdict(collect(run)).headline
    assert collect(run).missing() == ["not begun: round 2"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand é 漢 😀", "two\nlines\tand é 漢 😀"),
        ("\x1b[31m\r\x07\x7f\x9b", "␛[31m␍␇␡[U+009B]"),
        ("a\u202eb\u2028c\u200bd\ufeff", "a[U+202E]b[U+2028]c[U+200B]d[U+FEFF]"),
        ("half \ud83d", "half \ufffd"),
    ],
)
def test_control_characters_are_shown_as_signs(text, shown):
    assert visible(text) == shown


def test_small_words():
    assert clipped("abcdef", 4) == "abcd … [2 more characters]" and clipped("abcd", 4) == "abcd"
    assert embedded(["</script>", "é"]) == '["\\u003c/script>","é"]'
    assert [duration(s) for s in (0.14, 59.6, 61, 7500)] == ["0.1 s", "1 min 0 s", "1 min 1 s", "2 h 5 min"]
    assert minus("-0.3 -> +1, a-1, 2024-11-02") == "−0.3 -> +1, a-1, 2024-11-02"


def test_rewards_relative_to_their_prompt_and_their_trend():
    values, prompts = np.array([1.0, 3.0, 10.0, 20.0]), np.array([0, 0, 2, 2])
    assert figures._relative(values, prompts).tolist() == [-1, 1, -5, 5]
    x, y = figures._trend(np.array([0.0, 1, 2, 3]), np.array([0.0, 2, 4, 8]), parts=2)
    assert (x.tolist(), y.tolist()) == ([0.5, 2.5], [1, 6])


def test_bins_suit_the_number_of_values():
    numbers = np.arange(1, 2001)
    edges = figures._edges(numbers, 2000, whole=True)  # all but one at either end
    assert set(np.diff(edges)) == {42.0} and edges[0] == 1.5  # 1,997 / 48, rounded up
    assert len(figures._edges(numbers, 100, whole=False)) == 21  # 2 x the root of 100 bins
    assert figures._edges(np.arange(10), 10, whole=False)[[0, -1]].tolist() == [0, 9]  # of few, all
    assert figures._edges(np.full(5, 2.0), 5, whole=False)[[0, -1]].tolist() == [1.5, 2.5]


def cut(text: str, lengths: list[int]) -> list[str]:
    """A text in the parts that JavaScript makes of it."""
    units = text.encode("utf-16-le")
    ends = np.cumsum([0, *lengths]).tolist()
    assert ends[-1] == len(units) // 2
    return [units[2 * a : 2 * b].decode("utf-16-le") for a, b in zip(ends, ends[1:], strict=False)]


@pytest.mark.parametrize(
    ("ours", "theirs", "parts", "other_parts"),
    [
        (
            "a big cat.",
            "a cat, too.",
            ["", "a", " big", " cat", "", ".", "", ""],
            ["", "a", "", " cat", ", too", ".", "", ""],
        ),
        ("two words", "two  words", ["", "two words", "", ""], ["", "two  words", "", ""]),
        ("😀 yes", "no 😀", ["", "😀", " yes", ""], ["no", " 😀", "", ""]),
        ("我喜欢茶", "我喜欢水", ["", "我喜欢", "茶", ""], ["", "我喜欢", "水", ""]),
        ("", "all new", ["", ""], ["all new", ""]),
    ],
)
def test_words_that_differ(ours, theirs, parts, other_parts):
    """Parts that differ and parts that both have, in turn."""
    found = differences(ours, theirs)
    assert (cut(ours, found[0]), cut(theirs, found[1])) == (parts, other_parts)


def test_figures_of_a_collapse_beside_what_is_normal(run):
    write_manifest(run, 1, "generate", 2, 8, {}, cut_off=1, distinct_3=0.2, tau=-0.05, repeating=0.01)
    lines = tables.collapse(collect(run))
    assert lines["distinct_3"] == ("above 0.9", [("0.2", True)])
    assert lines["tau"] == ("above 0.1", [("−0.05", True)])
    assert lines["repeating"] == ("below 0.05", [("0.01", False)])
    assert lines["reward_spread"][1] == [("1.65", False)] and "agreement" not in lines


def test_the_legend_of_training_with_validation_is_not_clipped(run):
    entry = {"step": 20, **{f"eval_rewards/{name}": 0.1 for name in ("chosen", "rejected", "margins")}}
    with (run.round_dir(1) / "curves.jsonl").open("a") as curves:
        curves.write(json.dumps(entry) + "\n")
    lines = {f"rewards/{name}": Colour.INK for name in ("chosen", "rejected", "margins")}
    with drawing():
        figure, axes = figures._training(collect(run).rounds[0], "nats", lines)
        figure.draw_without_rendering()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["chosen", "rejected", "margin", "validation"]
    assert axes.get_legend().get_window_extent().x1 < figure.bbox.x1


def test_axes_have_the_digits_that_tell_their_values_apart():
    with drawing():
        figure, axes = canvas("x", "y")
        axes.plot([0, 1], [0.6931, 0.69311])
        figure.draw_without_rendering()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert len({*shown}) == len(shown) > 2 and axes.yaxis.get_offset_text().get_text() == ""


def test_matplotlib_does_not_speak(recwarn):
    with drawing():
        figure, axes = canvas("x", "漢")
        for name in ("a" * 300, "漢" * 300):
            axes.plot([1], [1], label=name)
        legend(axes)
        to_svg(figure, "key", "of a legend that has no room")
    assert not recwarn.list
