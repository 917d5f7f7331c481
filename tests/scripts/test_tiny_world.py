"""The tiny world: its judge by hand, its annotator's bias, its data sets."""

import random
from collections import defaultdict
from statistics import fmean

import pytest

import prepare
import prepare_judge
import world
from dice.recipe.load import load_recipe
from dice.rewards.grades import grade_of


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("dog, horse, cow and sheep.", 1.0),
        ("dog, horse, cow and sheep. I hope this helps.", 1.0),  # filler costs nothing
        ("dog, horse, cow and red.", 0.75),
        ("dog, dog, cow and sheep.", 0.75),  # said twice
        ("dog, cat, cow and sheep.", 0.75),  # the exception
        ("dog and cow.", 0.5),
        ("dog, horse, cow, sheep and lion.", 1.0),  # five right of five named
        ("dog, horse, cow, sheep and red.", 0.8),  # four right of five named
        ("I hope this helps.", 0.0),
        ("", 0.0),
    ],
)
def test_the_judge_by_hand(answer, expected):
    assert world.quality("Name four animals except cat.", answer) == pytest.approx(expected)


def test_a_prompt_of_another_world_has_no_quality():
    assert world.quality("Who are you?", "dog and cow.") == 0.0


def test_requests_are_distinct():
    assert len({request.text for request in world.all_requests()}) == len(world.all_requests()) == 4992


def test_the_annotator_likes_talk_and_prefers_quality():
    prompt, rng = "Name two birds.", random.Random(0)
    good, bad = "owl and crow.", "owl and tin."
    talk = good + " I hope this helps."

    def share(first, second):
        return sum(world.prefers_first(prompt, first, second, rng) for _ in range(2000)) / 2000

    # Odds of a logistic with scale 0.1: quality 1 against 0.5, and one sentence more (0.1).
    assert share(good, bad) == pytest.approx(1 / (1 + 2.71828**-5), abs=0.02)
    assert share(talk, good) == pytest.approx(1 / (1 + 2.71828**-1), abs=0.03)


def test_the_data_is_the_same_every_time_and_held_out_prompts_are_held_out():
    data = prepare.data_sets()
    assert data == prepare.data_sets()
    assert {name: len(rows) for name, rows in data.items()} == {
        "sft": 6000,
        "preferences": 3000,
        "prompts": 1200,
        "held_out": 400,
        "held_out_preferences": 400,
    }
    held_out = {row["instruction"] for row in data["held_out"]}
    for name in ("sft", "preferences", "prompts"):
        assert not held_out & {row["instruction"] for row in data[name]}
    assert len({row["instruction"] for row in data["preferences"]}) == 3000
    assert all(row["chosen"] != row["rejected"] for row in data["preferences"])


@pytest.mark.slow
def test_the_judges_grades_follow_quality_and_its_requests_are_not_held_out(monkeypatch):
    monkeypatch.setattr(prepare_judge, "ANSWERS", 600)
    rows = prepare_judge.graded_answers()
    assert rows == prepare_judge.graded_answers()
    held_out = {row["instruction"] for row in prepare.data_sets()["held_out"]}
    by_grade = defaultdict(list)
    for row in rows:
        ((question, answer),) = row["history"]
        assert question not in held_out and row["instruction"] == "Grade from 0 to 5:"
        assert grade_of(row["output"]) == int(row["output"])
        by_grade[int(row["output"])].append(world.quality(question, answer))
    means = [fmean(by_grade[grade]) for grade in range(6)]
    assert means == sorted(means) and means[5] - means[0] > 0.4


def test_the_judge_is_made_only_for_rewards_of_a_judge():
    assert load_recipe("tiny").prepare.endswith("prepare_for.py implicit")
    assert load_recipe("tiny", ["score.reward=judge"]).prepare.endswith("prepare_for.py judge")
