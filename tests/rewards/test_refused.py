"""What is refused of a recipe's rewards before round 1."""

import pytest

from dice.errors import BadInput
from dice.recipe.load import load_recipe
from dice.rewards import check


def load(fake_settings, *overrides):
    return load_recipe("tiny", [*fake_settings, *overrides])


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["score.reward=length"],
            "'length'; it must be 'implicit', 'reward_model', 'judge', 'random' or",
        ),
        (["score.reward=judge", "score.judge_samples=0"], "score.judge_samples is 0; it must be at least 1"),
        (["score.judge_temperature=0"], "above 0, or all samples agree"),
        (
            ["score.policy_logps=engine", "score.quantization_bit=4"],
            "score.policy_logps is 'engine'; it needs weights that are not quantized",
        ),
        (
            ["score.policy_logps=engine", "generate.engine_args.quantization=fp8"],
            "score.policy_logps is 'engine'; it needs weights that are not quantized",
        ),
        (
            ["score.reward=reward_model", "replay.gamma=0", "replay.dataset=null"],
            "replay.dataset must name the preference set to train it on",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(fake_settings, overrides, message):
    with pytest.raises(BadInput, match=message):
        load(fake_settings, *overrides)


@pytest.mark.parametrize(
    "override, message",
    [
        ("output_dir=x", "score.reward_args: output_dir follows from the rest of the recipe"),
        ("tokenized_path=x", "score.reward_args: tokenized_path can't be 'x': later rounds would train on"),
        ("learnin_rate=1", "unknown key 'score.reward_args.learnin_rate': .*did you mean learning_rate"),
        ("learning_rate=fast", "score.reward_args.learning_rate is 'fast'; LLaMA-Factory takes float"),
    ],
)
def test_arguments_for_training_a_reward_model_are_checked(fake_settings, override, message):
    recipe = load(fake_settings, "score.reward=reward_model", f"score.reward_args.{override}")
    with pytest.raises(BadInput, match=message):
        check.examine(recipe)


def test_a_prompt_for_the_judge_needs_both_places(fake_settings, tmp_path):
    (tmp_path / "judge.txt").write_text("How good is {response}?")
    wanted = ["score.reward=judge", f"score.judge_prompt={tmp_path / 'judge.txt'}"]
    with pytest.raises(BadInput, match=r"judge.txt has no \{prompt\}; it must have both places, or none"):
        check.examine(load(fake_settings, *wanted))
    (tmp_path / "judge.txt").write_text("\ufeff \n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"judge.txt is empty; it must have \{prompt\} and \{response\}, or"):
        check.examine(load(fake_settings, *wanted))
    with pytest.raises(BadInput, match="nowhere.txt can't be read"):
        check.examine(load(fake_settings, "score.reward=judge", "score.judge_prompt=nowhere.txt"))
