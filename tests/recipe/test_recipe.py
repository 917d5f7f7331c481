"""Recipes: every one loads, overrides land where they belong, and mistakes are named."""

import functools
from dataclasses import asdict

import pytest
import yaml

from dice.errors import BadInput
from dice.recipe.keys import RECIPES, Recipe, known_keys, recipe_names
from dice.recipe.load import load_recipe, load_resolved, resolved_yaml


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_its_resolved_form(name, tmp_path):
    recipe = load_recipe(name)
    assert recipe.run == name
    assert recipe.train.args["stage"] == "dpo"
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    assert load_resolved(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("name", "policy", "reference", "template", "temperature", "top_p"),
    [
        (
            "llama3",
            "princeton-nlp/Llama-3-Base-8B-SFT-DPO",
            "princeton-nlp/Llama-3-Base-8B-SFT",
            "llama3-custom",
            0.9,
            1.0,
        ),
        (
            "zephyr",
            "HuggingFaceH4/zephyr-7b-beta",
            "HuggingFaceH4/mistral-7b-sft-beta",
            "zephyr-custom",
            0.7,
            0.9,
        ),
    ],
)
def test_the_papers_recipes_carry_the_papers_settings(name, policy, reference, template, temperature, top_p):
    recipe = load_recipe(name)
    assert (recipe.policy, recipe.reference, recipe.template) == (policy, reference, template)
    assert (recipe.generate.temperature, recipe.generate.top_p) == (temperature, top_p)
    assert (recipe.rounds, recipe.generate.samples, recipe.generate.max_new_tokens) == (2, 16, 2048)
    assert (recipe.replay.gamma, recipe.score.cutoff_len) == (0.5, 4096)
    # Strictly between 3 and 6,700 characters; at least 8 of the 16 samples.
    assert (recipe.pair.min_chars, recipe.pair.max_chars, recipe.pair.min_samples) == (4, 6699, 8)
    assert recipe.train.global_batch_size == 32
    expected = {
        "pref_beta": 0.1,
        "pref_loss": "sigmoid",
        "learning_rate": 5e-7,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 50,
        "max_steps": 300,
        "val_size": 576,
        "bf16": True,
        "deepspeed": "llama-factory/examples/deepspeed/zero3.json",
    }
    assert {key: recipe.train.args[key] for key in expected} == expected
    by_itself = yaml.safe_load((RECIPES / name / recipe.train.config).read_text())
    assert (by_itself["template"], by_itself["cutoff_len"]) == (template, 4096)


def test_overrides_reach_every_level():
    recipe = load_recipe("tiny", ["rounds=3", "replay.gamma=0.25", "run=my-run", "generate.engine_args.x=1"])
    assert (recipe.rounds, recipe.replay.gamma, recipe.run) == (3, 0.25, "my-run")
    assert recipe.generate.engine_args == {"x": 1}


def test_keys_under_train_that_are_not_dices_are_llama_factorys():
    recipe = load_recipe("tiny", ["train.learning_rate=1e-3", "train.global_batch_size=8"])
    assert recipe.train.args["learning_rate"] == 1e-3
    assert recipe.train.args["pref_beta"] == 0.1  # from the file
    assert recipe.train.global_batch_size == 8


def test_train_may_be_just_a_file_name(tmp_path):
    folder = _copy_of_tiny(tmp_path, "train: dpo.yaml")
    assert load_recipe(str(folder)).train.global_batch_size == 32


def test_a_recipe_of_ones_own_is_a_folder(tmp_path):
    assert load_recipe(str(_copy_of_tiny(tmp_path, "rounds: 5"))).rounds == 5


def _copy_of_tiny(folder, line):
    recipe = yaml.safe_load((RECIPES / "tiny" / "dice.yaml").read_text())
    recipe.pop(line.split(":")[0])
    (folder / "dice.yaml").write_text(line + "\n" + yaml.safe_dump(recipe))
    (folder / "dpo.yaml").write_text((RECIPES / "tiny" / "dpo.yaml").read_text())
    return folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("replay.gama=0.5", "on the command line: unknown key 'replay.gama' (did you mean replay.gamma?)"),
        ("colour=red", "on the command line: unknown key 'colour'; there are: policy, reference, "),
        ("replay.gamma=1.5", "on the command line: replay.gamma is 1.5; it must be between 0 and 1"),
        ("replay.gamma=-0.1", "replay.gamma is -0.1; it must be between 0 and 1"),
        ("replay.gamma=nan", "replay.gamma is nan; it must be between 0 and 1"),
        ("replay.gamma=half", "on the command line: replay.gamma: "),
        ("generate.samples=1", "generate.samples is 1; a pair needs at least 2 samples"),
        (
            "generate.samples=4",
            "pair.min_samples is 8; it must be between 2 and generate.samples, which is 4",
        ),
        ("generate.temperature=0", "generate.temperature is 0.0; it must be above 0"),
        ("generate.temperature=.inf", "generate.temperature is inf; it must be above 0"),
        ("generate.temperature=2.5", "generate.temperature is 2.5; it must be above 0"),
        ("generate.tensor_parallel=0", "generate.tensor_parallel is 0; it must be at least 1"),
        ("generate.tensor_parallel=2", "generate.tensor_parallel is 2; only vllm does that"),
        (
            "generate.engine_args.tensor_parallel_size=2",
            "tensor_parallel_size follows from the recipe; use generate.tensor_parallel",
        ),
        ("generate.engine_args.max_model_len=9", "max_model_len follows from the recipe; use generate.max_m"),
        ("generate.engine_args.dtype=half", "dtype follows from the recipe; use dtype"),
        ("generate.top_p=1.5", "generate.top_p is 1.5; it must be above 0 and at most 1"),
        ("generate.engine=sglang", "generate.engine is 'sglang'; there are auto, hf, vllm, fake"),
        ("pair.alpha=much", "pair.alpha is 'much'; it must be auto, grid or a number"),
        ("pair.length=words", "pair.length is 'words'; there are chars, tokens"),
        ("rounds=0", "rounds is 0; it must be at least 1"),
        ("rounds=two", "on the command line: rounds: "),
        ("run=../elsewhere", "run is '../elsewhere'; a run's name has letters, digits, . _ -"),
        ("train.output_dir=x", "on the command line: train.output_dir follows from the rest of the recipe"),
        ("train.config=nope.yaml", "on the command line: train.config names "),
        ("prompts=", "on the command line: prompts: empty; it must have a value"),
        ("reference=null", "on the command line: reference: empty; it must have a value"),
        ("train.config=5", "on the command line: train.config is 5; it must be a file name"),
        ("train.args=5", "on the command line: train.args is 5; it must be a mapping of arguments"),
        ("train=5", "on the command line: train is a group of keys: train.config, "),
        ("pair.rejected=best", "pair.rejected is 'best'; there are worst, random"),
        ("pair.per_prompt=9", "pair.per_prompt is 9; it must be between 1 and half of generate.samples, 8"),
        ("pair.min_margin=-1", "pair.min_margin is -1.0; it must be at least 0"),
        ("generate=3", "on the command line: generate is a group of keys: generate.engine, "),
        ("train.stage=sft", "on the command line: train: stage must be dpo"),
        ("train.finetuning_type=oft", "train: finetuning_type must be full, freeze or lora"),
        ("train.per_device_train_batch_size=0", "train: per_device_train_batch_size must be a whole number"),
        ("rounds", "on the command line: 'rounds' is not of the form key=value"),
        ("evaluate.judge=null", "evaluate.prompts and evaluate.judge go together"),
    ],
)
def test_mistakes_on_the_command_line(override, message):
    with pytest.raises(BadInput) as caught:
        load_recipe("tiny", [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gama: 1", "dice.yaml:1: unknown key 'gama'"),
        ("rounds: -1", "dice.yaml:1: rounds is -1; it must be at least 1"),
        ("seed: [1", "not YAML"),
        ("replay: {dataset: null, gamma: 0.5}", "dice.yaml:1: replay.dataset is None; with replay.gamma 0.5"),
    ],
)
def test_mistakes_in_a_recipe_file_are_named_by_line(tmp_path, line, message):
    recipe = yaml.safe_load((RECIPES / "tiny" / "dice.yaml").read_text())
    recipe.pop(line.split(":")[0], None)
    (tmp_path / "dice.yaml").write_text(line + "\n" + yaml.safe_dump(recipe))
    (tmp_path / "dpo.yaml").write_text("stage: dpo\n")
    with pytest.raises(BadInput) as caught:
        load_recipe(str(tmp_path))
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


def test_an_unknown_recipe_is_told_what_there_is():
    with pytest.raises(BadInput, match="'llama4'; there are: llama3, llama3-lora, qwen, tiny, zephyr"):
        load_recipe("llama4")


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "dice.yaml").write_text("reference: a\ntemplate: b\nprompts: c\nreplay: {gamma: 0}\n")
    (tmp_path / "dpo.yaml").write_text("stage: dpo\n")
    with pytest.raises(BadInput, match="policy: missing; a recipe needs policy, reference, template"):
        load_recipe(str(tmp_path))


def test_known_keys_are_spelled_out():
    assert {"policy", "replay.gamma", "generate.engine_args", "train.config"} <= set(known_keys(Recipe))


def test_an_unquoted_no_is_a_strategy():
    assert load_recipe("tiny", ["train.save_strategy=no"]).train.args["save_strategy"] == "no"
    assert load_recipe("tiny", ["train.pure_bf16=no"]).train.args["pure_bf16"] is False


ODD_TEXTS = [
    "1e3",
    "${foo}",
    "\\${foo}",
    "a\\\\${b",
    "${",
    "a\r\nb",
    "no",
    "null",
    "0x1f",
    "2020-01-01",
    "<<",
    "\x85",
    "",
]


def test_the_resolved_recipe_reads_back_equal(tmp_path):
    """Numbers, words and interpolations in YAML's and OmegaConf's eyes, and texts that look like them."""
    values = [
        *ODD_TEXTS,
        1e300,
        1e16,
        5e-324,
        -0.0,
        2**70,
        True,
        None,
        [[]],
        {},
        {name: 1 for name in ODD_TEXTS},
    ]
    recipe = load_recipe("tiny")
    recipe.generate.engine_args = {"values": values}
    recipe.prepare = "echo ${HOME} 1e3"
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    assert load_resolved(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{1: 2}", "generate.engine_args.x has the key 1; a key must be text, in quotes"),
        ("!!binary aGk=", "generate.engine_args.x is b'hi'; it must be text, a finite number, true, false"),
        ("[.nan]", "generate.engine_args.x.0 is nan; it must be text, a finite number"),
        ("-.inf", "generate.engine_args.x is -inf; it must be"),
    ],
)
def test_what_json_has_no_word_for_is_refused(tmp_path, value, message):
    folder = _copy_of_tiny(tmp_path, f"generate: {{engine_args: {{x: {value}}}}}")
    with pytest.raises(BadInput) as caught:
        load_recipe(str(folder))
    assert str(caught.value).startswith(f"{folder}/dice.yaml:1: {message}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score.reward", "foo"),
        ("score.reward", "check"),
        ("replay.gamma", 2),
        ("replay.gamma", float("nan")),
        ("pair.alpha", "foo"),
        ("pair.per_prompt", 0),
        ("pair.length", "foo"),
        ("pair.rejected", "foo"),
        ("pair.min_samples", 0),
        ("generate.tensor_parallel", 0),
        ("generate.shard_size", 0),
        ("generate.temperature", 0),
        ("train.args", {}),
        ("rounds", 100_000_000),
    ],
)
def test_a_runs_recipe_is_checked_too(tmp_path, key, value):
    block = asdict(load_recipe("tiny"))
    *groups, name = key.split(".")
    functools.reduce(dict.get, groups, block)[name] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(block))
    with pytest.raises(BadInput, match=rf"{path}:\d+: {key.partition('.args')[0]}"):
        load_resolved(path)


PATHS = ("run", "results_dir", "dataset_dir", "policy", "evaluate.judge", "score.judge", "train.config")


@pytest.mark.parametrize("key", PATHS)
def test_a_name_that_no_file_can_have(fake_settings, key):
    with pytest.raises(BadInput, match=f"on the command line: {key} "):
        load_recipe("tiny", [*fake_settings, f"{key}={'x' * 300}"])


def test_values_beyond_all_measure(fake_settings):
    for override in (f"replay.gamma={'9' * 400}", "policy=\ud800", "\ud800=1", "generate.engine_args=[1]"):
        with pytest.raises(BadInput, match="on the command line"):
            load_recipe("tiny", [*fake_settings, override])
