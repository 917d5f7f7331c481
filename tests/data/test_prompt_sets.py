"""Prompts of rounds: parts of one set by hand, and sets that must have nothing in common."""

import json

import pytest
from fake_world import TOPICS

from dice.data.prompt_sets import check_apart, read_round
from dice.errors import BadInput
from dice.recipe.load import load_recipe
from dice.run.rows import Prompt, prompt_id

SHUFFLED = [4, 3, 1, 5, 0, 7, 8, 6, 2, 9]  # ten prompts by seed 42


def topics_of(recipe, t):
    prompts, others = read_round(recipe, t)
    texts = [prompt.messages[-1]["content"] for prompt in prompts]
    return [text.removeprefix("Tell me about ").removesuffix(".") for text in texts], dict(others)


def test_a_plain_name_is_the_whole_set_in_every_round(fake_settings):
    recipe = load_recipe("tiny", fake_settings)
    assert topics_of(recipe, 1) == topics_of(recipe, 2) == ([*TOPICS], {})


def test_each_round_has_its_part_of_a_set_by_hand(fake_settings):
    """Three of ten: places 4, 3, 1, then 5, 0, 7, then 8, 6, 2 of the set, each part in the set's order."""
    for rounds in (2, 3):  # which takes nothing away from the rounds before
        recipe = load_recipe("tiny", [*fake_settings, "prompts_per_round=3", f"rounds={rounds}"])
        parts = [sorted(SHUFFLED[:3]), sorted(SHUFFLED[3:6]), sorted(SHUFFLED[6:9])][:rounds]
        found = [topics_of(recipe, t) for t in range(1, rounds + 1)]
        expected = [[TOPICS[index] for index in part] for part in parts]
        assert [topics for topics, _ in found] == expected
        assert all(others == {"prompts that are not of this round": 7} for _, others in found)


def test_the_parts_are_the_seeds(fake_settings):
    settings = [*fake_settings, "prompts_per_round=5"]
    assert topics_of(load_recipe("tiny", settings), 1) != topics_of(
        load_recipe("tiny", [*settings, "seed=1"]), 1
    )


def test_a_prompt_that_is_there_twice_is_in_one_round(fake_settings, data_dir):
    """The file has each prompt twice; the parts are as if it had not."""
    path = data_dir / "prompts.json"
    path.write_text(json.dumps([*json.loads(path.read_text())] * 2))
    recipe = load_recipe("tiny", [*fake_settings, "prompts_per_round=5"])
    (first, others), (second, _) = topics_of(recipe, 1), topics_of(recipe, 2)
    assert (first, second) == tuple(
        [TOPICS[index] for index in sorted(part)] for part in (SHUFFLED[:5], SHUFFLED[5:])
    )
    assert others == {"duplicate prompts": 10, "prompts that are not of this round": 5}


def test_a_set_that_has_too_few(fake_settings):
    recipe = load_recipe("tiny", [*fake_settings, "prompts_per_round=4", "rounds=3"])
    with pytest.raises(BadInput) as caught:
        read_round(recipe, 1)
    assert str(caught.value) == (
        "some_prompts has 10 prompts, but 3 rounds with 4 each (prompts_per_round) need 12; "
        "lower one of the two, or name a larger set"
    )


def test_sets_with_a_prompt_in_common():
    def prompts(*texts):
        turns = [[{"role": "user", "content": text}] for text in texts]
        return [Prompt(prompt_id(messages), messages) for messages in turns]

    check_apart({"a": prompts("cats", "rain"), "b": prompts("tea"), "c": prompts("Cats")})
    with pytest.raises(
        BadInput, match="a and c share prompts, 'rain' for one; each round must have prompts of"
    ):
        check_apart({"a": prompts("cats", "rain"), "b": prompts("tea"), "c": prompts("boats", "rain")})
