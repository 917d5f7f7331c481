"""What is known to be wrong before round 1: arguments and packages of the training."""

import pytest

from dice.errors import BadInput
from dice.recipe.load import load_recipe
from dice.stages import checks


def test_arguments_that_do_not_go_together():
    """LLaMA-Factory would say so when training begins, hours later."""
    wanted = "train: LLaMA-Factory can't take all of it: `dpo_label_smoothing` is only valid for sigmoid"
    with pytest.raises(BadInput, match=wanted):
        checks.check_train_args(
            load_recipe("tiny", ["train.dpo_label_smoothing=0.1", "train.pref_loss=ipo"]), str
        )
    checks.check_train_args(load_recipe("tiny", ["run=never-started", "train.dpo_label_smoothing=0.1"]), str)


@pytest.mark.parametrize("name", ["enable_liger_kernel", "use_galore", "use_badam"])
def test_a_switch_whose_package_is_not_installed(monkeypatch, name):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    loaded = load_recipe("tiny", [f"train.{name}=true"])
    with pytest.raises(BadInput, match=f"here: train.{name} needs {checks.PACKAGES[name]}, which is not"):
        checks.check_packages(loaded, lambda key: "here")
