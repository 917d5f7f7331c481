"""How often rewards agree with held-out labels, before round 1 and after each round."""

import numpy as np
import pytest

from dice.data.prompts_and_preferences import read_preferences
from dice.inference import fake
from dice.recipe.load import load_recipe
from dice.run.run import create_run
from dice.stages import agreement
from dice.stages.agreement import Agreement
from dice.stages.order import STAGES, execute, stages_of


def test_agreement_of_margins():
    """Two of four agree, one is a tie: (1 + 1 + 0.5 + 0) / 4, whose deviation is 0.479."""
    found = Agreement.of(np.array([3.0, 0.1, 0.0, -9.0]))
    assert (found.pairs, found.share) == (4, 0.625)
    assert found.error == pytest.approx(np.std([1, 1, 0.5, 0], ddof=1) / 2)


OPTIONS = [
    "score.consistency=true",
    "score.average_rounds=3",
    "train.smoothing=consistency",
    "pair.min_confidence=0.6",
    "gates=[tau >= 0]",
]


@pytest.mark.parametrize(
    "words", [[], OPTIONS, [*OPTIONS[:2], "score.normalize=tokens"], ["score.policy_logps=engine"]]
)
def test_before_round_1(fake_settings, workers_here, words):
    """By the fake engine's log-probs, worked out here for the twenty pairs."""
    run = create_run(load_recipe("tiny", [*fake_settings, "evaluate.preferences=some_pairs", *words]))
    made = execute(agreement.STAGE, run, 0)

    def reward(one, text):
        ids = fake.Chat().encode(one.messages, text)
        found = fake.logps("fake-dpo", *ids) - fake.logps("fake-sft", *ids)
        return found.mean() if "score.normalize=tokens" in words else found.sum()

    pairs, _ = read_preferences(run.recipe.dataset_dir, "some_pairs")
    right = [reward(one, one.chosen) > reward(one, one.rejected) for one in pairs]
    assert made.figures["agreement"] == np.mean(right) and made.rows_out == 20
    assert f"agree with {np.mean(right):.1%}" in made.summary
    told = (
        "the prompts of 20 of the 20 pairs of evaluate.preferences are in replay.dataset, too: not held out"
    )
    assert made.warnings[-1] == told and len(made.warnings) == 1 + (np.mean(right) < 0.55)
    folder = run.path / "agreement" / "before-round-1"
    assert [path.name for path in folder.iterdir()] == ["agree.manifest.json"]
    assert [(one.name, t) for one, t in stages_of(run) if one.name == "agree"] == [
        ("agree", 0), ("agree", 1), ("agree", 2),
    ]  # fmt: skip


def test_a_coin_s_reward_is_told(fake_settings, workers_here, monkeypatch):
    run = create_run(load_recipe("tiny", [*fake_settings, "evaluate.preferences=some_pairs"]))
    for share, told in ((0.52, ["the reward agrees with 52.0% ± 5.0% of the held-out labels"]), (0.55, [])):
        monkeypatch.setattr(Agreement, "of", lambda margins, share=share: Agreement(100, share, 0.05))
        warnings = agreement._run(run, 0).warnings[:-1]
        assert [text.partition(",")[0] for text in warnings] == told


def test_nobody_is_compared_unless_that_is_asked(fake_run):
    assert "agree" not in [one.name for one, _ in stages_of(fake_run)]
    assert fake_run.recipe.evaluate.preferences is None and STAGES["agree"] is agreement.STAGE
