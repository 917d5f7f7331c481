"""Gates as a recipe has them."""

import pytest

from dice.errors import BadInput
from dice.recipe.gates import WARN, Gate, failures, gates_of
from dice.recipe.load import load_recipe


def test_a_gate_is_a_figure_and_a_bound(fake_settings):
    recipe = load_recipe(
        "tiny", [*fake_settings, "gates=[cut_off_share>-1.5, repeating < 0.05, distinct_3 >= 0.5]"]
    )
    assert gates_of(recipe)[0] == Gate("cut_off_share", ">", -1.5)
    assert failures(recipe, {"cut_off_share": 0, "repeating": 0.049, "distinct_3": 0.5}) == []
    assert failures(recipe, {"repeating": 0.05, "distinct_3": 0.499}) == [
        "repeating is 0.05, not < 0.05", "distinct_3 is 0.499, not >= 0.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["gates=[distinct_5 >= 1]"],
            "gates has 'distinct_5 >= 1'; a gate is a figure, >= or <=, and a number",
        ),
        (["gates=[tau >= 0.1]"], "gates has tau, but no round has that figure; it needs score.consis"),
        (["gates=[agreement >= 0.6]"], "no round has that figure; it needs evaluate.preferences"),
        (["gates=[kl_per_token < 1]", "score.reward=random"], "it needs score.reward=implicit"),
        (["gates=stop"], "gates is 'stop'; it must be a list or 'warn'"),
    ],
)
def test_gates_that_nothing_can_pass_are_refused(fake_settings, words, message):
    with pytest.raises(BadInput) as refused:
        load_recipe("tiny", [*fake_settings, *words])
    assert message in str(refused.value)


def test_warn_goes_on(fake_settings):
    usual = load_recipe("tiny", [*fake_settings, "gates=warn"])
    assert gates_of(usual) == [Gate("distinct_3", ">=", 0.5)] and WARN in usual.gates
    words = ["gates=warn", "score.consistency=true", "evaluate.preferences=some_pairs"]
    assert len(gates_of(load_recipe("tiny", [*fake_settings, *words]))) == 3
    assert gates_of(load_recipe("tiny", [*fake_settings, "gates=[warn]"])) == gates_of(usual)
    both = load_recipe("tiny", [*fake_settings, "gates=[repeating < 0.1, warn]"])
    assert gates_of(both) == [Gate("repeating", "<", 0.1)] and WARN in both.gates
    assert gates_of(load_recipe("tiny", fake_settings)) == []
