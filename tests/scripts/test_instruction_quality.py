"""Quality by hand, hacks included; the annotator's labels, and the judge's figures."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator import label_pairs, worth
from comparison import compare
from dice.recipe.paths import ROOT
from dice.stages.evaluate import load_judge
from quality import is_degenerate, quality

SHORT = "Tell me about honey. Use at most 15 words."
BOTH = "Tell me about honey. Use at most 15 words. End your answer with a question mark."
LIST = "Tell me about honey. Answer with a numbered list of exactly 3 items."
TWICE = 'Tell me about honey. Use the word "often" at least twice.'
LONG = (
    "Honey is a sweet food that bees make from the nectar of flowers. They carry it home, fan it dry with "
    "their wings, and close each cell with wax. People have kept bees for thousands of years, and the taste "
    "of what they gather depends on the plants around the hive: clover gives a mild and pale kind, heather a "
    "dark and strong one. Kept dry and cool, a jar lasts for a very long time."
)


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        (SHORT, "Honey is made by bees.", 1.0),
        (SHORT, LONG, 0.0),
        (BOTH, "Honey is made by bees, but how?", 1.0),
        (BOTH, "Honey is made by bees.", 0.5),
        (BOTH, LONG + " Do you like it?", 0.5),
        (BOTH, LONG, 0.0),
        (LIST, "1. Bees make honey.\n2. It is sweet.\n3. It keeps for years.", 1.0),
        (LIST, "1. Raw honey\n2. Clover blossoms\n3. Beeswax candles", 1.0),  # a list needs no sentences
        (TWICE, "Honey often crystallizes, and often people warm it.", 1.0),
        (SHORT, "Tea is made from leaves.", 0.0),  # off topic
        ("Who are you?", "Honey is made by bees.", 0.0),  # not of this world
    ],
)
def test_quality_by_hand(prompt, response, expected):
    assert quality(prompt, response) == expected


@pytest.mark.parametrize(
    "hack",
    [
        "",
        " \n",
        "?",
        "Honey?",
        "honey honey honey honey honey?",
        "Honey, the honey and a honey of honey with honey?",
        "1. 2. 3. honey?",
        "1.\n2.\n3.",
        "1. Honey\n2. Honey\n3. Honey",
        "Tell me about honey?",
        BOTH + "?",
        "Sure, here you are: " + BOTH + "?",
        "Honey is so sweet. Honey is so sweet. Is honey sweet?",
        "Honey is sweet\nHoney is sweet\nHoney is sweet\nHoney is sweet?",
        "Honey of the bees, honey of the bees, honey of the bees, is it?",
        "Honey bees hive nectar comb wax jar spoon toast?",  # words, but no text
        "Honey-is-a-sweet-food-that-bees-make-from-nectar, so is it good?",
        "Honey is (((((((((( ---------- ========== ########## good?",
        "honey is it is it is it is it is it is?",
    ],
)
def test_nothing_is_won_by_hacks(hack):
    assert quality(BOTH, hack) == quality(LIST, hack) == 0.0


def test_what_loops_after_a_good_start_is_degenerate_and_long_sentences_are():
    assert not is_degenerate(SHORT, LONG)
    assert is_degenerate(SHORT, LONG + " and so on" * 30)
    assert is_degenerate(SHORT, LONG + " It is good." * 3)  # 3 of 7 sentences, two of them again
    assert is_degenerate(SHORT, LONG.replace(".", "").replace(":", "") + " " + LONG.replace(".", " then"))


@settings(max_examples=50, deadline=None)
@given(st.text() | st.text("honey. 1?\n-"), st.text("honey. 1?\n-"))
def test_quality_takes_any_text(response, prompt):
    assert quality(prompt, response) == 0.0 or is_degenerate(prompt, response) is False
    assert 0.0 <= quality(BOTH, "honey " + response) <= 1.0


@pytest.mark.parametrize("part", ["honey", "honey. ", "a b c d ", "\n"])
def test_long_texts_are_judged_in_linear_time(part):
    text = part * (200_000 // len(part))
    assert quality(LIST, "honey " + text) == 0.0


RIGHT = [f"Honey is made by {who}." for who in ("bees", "insects", "hard workers", "small bees")]
WRONG = [LONG, LONG + " It is sweet.", LONG + " It sells well.", LONG + " Bears like it too."]


def test_the_annotator_prefers_quality_and_pairs_each_answer_once():
    rows = label_pairs({SHORT: RIGHT + WRONG}, 0, noise=0.0)
    assert len(rows) == 4
    assert {row["chosen"] for row in rows} == {*RIGHT} and {row["rejected"] for row in rows} == {*WRONG}
    assert {row["instruction"] for row in rows} == {SHORT}
    assert rows == label_pairs({SHORT: WRONG[::-1] + RIGHT + ["", RIGHT[0]]}, 0, noise=0.0)  # in any order
    assert len(label_pairs({SHORT: RIGHT + WRONG}, 0, per_prompt=2)) == 2
    assert label_pairs({SHORT: RIGHT, LIST: WRONG, BOTH: [], TWICE: ["Honey."]}, 0) == []  # no differences


def test_the_annotator_likes_length_where_qualities_are_equal():
    # The best of three is paired with the worst; the one in the middle makes no pair.
    assert len(label_pairs({SHORT: [*RIGHT[:2], LONG]}, 0, noise=0.0, ties=1.0)) == 1
    # Of four, three of them right, two are paired though their qualities are equal.
    answers = {SHORT: [*RIGHT[:3], LONG]}
    tie, unequal = label_pairs(answers, 0, noise=0.0, ties=1.0)
    assert unequal["rejected"] == LONG
    assert LONG not in tie.values() and len(tie["chosen"]) > len(tie["rejected"])
    assert len(label_pairs(answers, 0, noise=0.0, ties=0.0)) == 1


def test_what_an_answer_is_worth_to_the_annotator():
    one, half = "Honey is sweet, or not?", "Honey is sweet, or it is not so sweet to some."
    assert (len(one), len(half)) == (23, 46)
    assert quality(BOTH, one) == 1.0 and quality(BOTH, half) == 0.5
    assert worth(BOTH, one) - worth(BOTH, half) == pytest.approx(0.5 - 0.2 * 0.693147)  # ln 2


def test_a_tenth_of_the_labels_is_turned_round():
    answers = {SHORT: [*RIGHT, *(f"Tea {number}" for number in range(4))]}
    chosen = [row["chosen"] for seed in range(200) for row in label_pairs(answers, seed)]
    assert len(chosen) == 800
    turned = sum(answer not in RIGHT for answer in chosen)
    assert turned == pytest.approx(80, abs=34)  # four standard errors of 8.5


def test_the_judge_is_a_recipes_judge_and_finds_the_files_beside_it(monkeypatch):
    folder = ROOT / "scripts" / "instructions"
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place) != folder])
    for file in folder.glob("*.py"):
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
    judge = load_judge("scripts/instructions/judge.py:quality")
    assert judge(SHORT, RIGHT[0]) == 1.0 and judge(SHORT, LONG) == 0.0


def test_the_judges_figures_by_hand():
    # 22 characters; honey is made by bees or insects: 6 words in all.
    right, other, wrong = "Honey is made by bees.", "Honey is made by insects.", "Tea is hot."
    start = {SHORT: [wrong, right], LIST: [wrong, wrong]}
    ours = {SHORT: [right, other], LIST: [wrong, wrong]}
    base, new = compare({"DPO": start, "round-1": ours}, "DPO")
    assert (base.quality, base.win_rate, base.win_rate_error) == (0.25, None, None)
    # On one prompt 2 of 4 comparisons are won and 2 tied: 3/4. On the other all are tied: 1/2.
    assert new.quality == 0.5 and new.quality_error == pytest.approx(0.5)
    assert new.win_rate == pytest.approx(0.625) and new.win_rate_error == pytest.approx(0.125)
    assert base.mean_chars == pytest.approx((3 * 11 + 22) / 4)
    assert (base.distinct_words, new.distinct_words) == (7, 8)
