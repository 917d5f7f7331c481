"""Arguments of a training file that LLaMA-Factory, or a round, can't take."""

import pytest

from dice.errors import BadInput
from dice.recipe import load
from dice.recipe.paths import RECIPES, recipe_names
from dice.stages import checks


def check_train_args(*overrides, recipe="tiny"):
    overrides = [*overrides, "run=never-started"]
    loaded = load.load_recipe(recipe, overrides)
    checks.check_train_args(loaded, lambda key: load.origin(recipe, overrides, key))


def test_an_argument_that_llama_factory_does_not_have():
    with pytest.raises(BadInput, match="unknown key 'train.learning_rat': .*did you mean learning_rate"):
        check_train_args("train.learning_rat=1")
    with pytest.raises(BadInput, match="on the command line: train.deepspeed: .*gone.json does not exist"):
        check_train_args("train.deepspeed=gone.json")
    with pytest.raises(BadInput, match="on the command line: train.deepspeed: .*README.md is no JSON object"):
        check_train_args("train.deepspeed=README.md")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.learning_rate=abc",
            "on the command line: train.learning_rate is 'abc'; LLaMA-Factory takes float",
        ),
        ("train.pref_loss=best", "pref_loss is 'best'; LLaMA-Factory takes Literal['sigmoid'"),
        ("train.lr_scheduler_type=flat", "LLaMA-Factory takes one of linear, cosine"),
        ("train.max_steps=2.5", "max_steps is 2.5; LLaMA-Factory takes int"),
        ("train.compute_dtype=float16", "unknown key 'train.compute_dtype'"),  # derived, not given
    ],
)
def test_an_argument_of_the_wrong_kind(override, message):
    with pytest.raises(BadInput) as caught:
        check_train_args(override)
    assert message in str(caught.value)


def test_epochs_that_steps_would_cut_off():
    with pytest.raises(BadInput, match="num_train_epochs is 2, but train.max_steps ends .* after 300 steps"):
        check_train_args("train.num_train_epochs=2", recipe="llama3")
    check_train_args("train.num_train_epochs=2", "train.max_steps=-1", recipe="llama3")
    check_train_args("train.max_steps=6")  # of a file's epochs
    check_train_args("train.num_train_epochs=null", recipe="llama3")


def test_a_wrong_argument_is_found_in_its_file(tmp_path):
    for name in ("dice.yaml", "dpo.yaml"):
        (tmp_path / name).write_text((RECIPES / "tiny" / name).read_text())
    with (tmp_path / "dpo.yaml").open("a") as file:
        file.write("warmup_stepz: 5\n")
    line = len((tmp_path / "dpo.yaml").read_text().splitlines())
    with pytest.raises(BadInput, match=f"dpo.yaml:{line}: unknown key 'train.warmup_stepz'"):
        check_train_args(recipe=str(tmp_path))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipes_training_file_is_known_to_llama_factory(name):
    check_train_args(recipe=name)
