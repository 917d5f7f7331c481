"""Axes and claims for what was published since the paper."""

import pytest

from dice.errors import BadInput
from dice.tools.ablation.claims import CLAIMS, verdicts
from dice.tools.ablation.grid import AXES, make_grid
from dice.tools.ablation.results import Setting


def test_what_was_published_since_is_asked_for_by_name(fake_settings):
    made = make_grid("tiny", [*fake_settings, "seeds=1", "axes=select,loss", "axis_rounds=1"])
    names = ["dice", "select-top", "select-bottom", "loss-length_normalized", "loss-wpo"]
    assert [cell.name for cell in made.cells] == names
    assert made.cells[0].values == (("select", "random"), ("loss", "dpo"))
    with pytest.raises(BadInput, match="axis_rounds is 1; axis reference needs 2 or more"):
        make_grid("tiny", [*fake_settings, "axes=reference"])
    made = make_grid("tiny", [*fake_settings, "seeds=1", "axes=reference,average,smoothing", "axis_rounds=2"])
    assert len(made.cells) == 5


def test_every_axis_has_a_claim_and_every_claim_its_values():
    for claim in CLAIMS:
        assert {claim.more, claim.less} <= AXES[claim.axis].keys()
    assert {claim.axis for claim in CLAIMS} == {*AXES}


GAINS = [((0.1, 0.11), "agrees"), ((-0.1, -0.11), "disagrees"), ((0.1, -0.1), "can't tell")]


@pytest.mark.parametrize(("gains", "says"), GAINS)
def test_a_published_claim_is_held_against_the_grid(fake_settings, gains, says):
    """Student's t of two seeds: the margin is 12.7 times 0.015 of 0.315, and more than all of 0."""
    made = make_grid("tiny", [*fake_settings, "seeds=1,2", "axes=normalize"])
    row = {"quality": 0.0, "mean_chars": 0.0}
    figures = {
        Setting("normalize", "none", 1): {1: row | {"win_rate": 0.5}, 2: row | {"win_rate": 0.5}},
        Setting("normalize", "tokens", 1): {
            seed: row | {"win_rate": 0.5 + 3 * gain} for seed, gain in zip((1, 2), gains, strict=True)
        },
    }
    figures |= {Setting("rounds", str(t), t): {} for t in range(4)}
    (found,) = [one for one in verdicts(figures, made) if one.claim == "Rewards per token beat sums"]
    assert found.says == says
