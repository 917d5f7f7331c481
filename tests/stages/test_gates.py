"""Gates in a run: which figures a round has, and where the loop stops."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dice.errors import GateClosed
from dice.stages import gates, pair
from dice.stages.order import execute, run_stage


def test_figures_of_a_round(round_of):
    """Log-probs 2 and -1 of one token each under the policy, 0 under the reference; spread 1.5.

    A prompt with a single response that was scored has no spread.
    """
    table = {"q": [("a b a b a", 2.0), ("c d e f g", -1.0)], "r": [("a b a b a", 0.5)]}
    run = round_of(table, alpha=0, min_samples=2)
    made = execute(pair.STAGE, run, 1).figures
    assert made["distinct_3"] == pytest.approx(2 / 3) and made["repeating"] == 0.0
    assert (made["reward_spread"], made["kl_per_token"], made["chosen_logp"]) == (1.5, 0.5, 2.0)
    assert "tau" not in made


def test_a_round_that_fails_a_gate_stops_the_loop(round_of, capsys):
    run = round_of({"q": [("a a a a a a a", 2.0), ("c d e f g", -1.0)]}, alpha=0, min_samples=2)
    assert run_stage("pair", run, 1).figures["distinct_3"] == 0.2
    run.recipe.gates = ["distinct_3 >= 0.5", "repeating < 0.1"]
    with pytest.raises(
        GateClosed, match="distinct_3 is 0.2, not >= 0.5; repeating is 1, not < 0.1"
    ) as stopped:
        run_stage("pair", run, 1)
    assert "the best model so far is the one at the start: fake-dpo" in str(stopped.value)
    assert stopped.value.status == 3 and "\n" not in str(stopped.value)
    run.recipe.gates = [*run.recipe.gates, "warn"]
    assert run_stage("pair", run, 1) and "gate: distinct_3 is 0.2" in capsys.readouterr().out


def test_a_gate_that_nothing_is_known_for_is_told(round_of, capsys):
    """Answers of two words have no three in a row."""
    run = round_of({"q": [("a b", 2.0), ("c d", -1.0)]}, alpha=0, min_samples=2)
    run.recipe.gates = ["distinct_3 >= 0.5", "repeating < 0.1", "distinct_2 > 0.1"]
    gates.check(run, execute(pair.STAGE, run, 1))
    assert "gate: round 1 has no distinct_3, repeating to judge it by" in capsys.readouterr().out


def test_the_best_model_is_named():
    of = lambda stage, t: SimpleNamespace(stage=stage, round=t, figures={"distinct_3": 0.1})  # noqa: E731
    recipe = SimpleNamespace(
        gates=["distinct_3 > 0.5"],
        score=SimpleNamespace(reward="implicit", consistency=False),
        evaluate=SimpleNamespace(preferences=None),
    )
    run = SimpleNamespace(recipe=recipe, path=Path("/runs/x"), model=lambda t: f"model {t}")
    for stage, t, told in (("pair", 3, "round 1: model 1"), ("agree", 3, "round 2: model 2")):
        with pytest.raises(GateClosed, match=f"the best model so far is that of {told}"):
            gates.check(run, of(stage, t))
