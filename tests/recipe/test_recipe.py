"""Recipes: every one loads, overrides land where they belong, and mistakes are named."""

import re

import pytest
import yaml

from dice.errors import BadInput
from dice.recipe.keys import known_keys
from dice.recipe.load import load_recipe, load_resolved, resolved_yaml
from dice.recipe.paths import RECIPES, recipe_names


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


def test_each_round_may_have_a_set_of_its_own(tmp_path):
    assert load_recipe("tiny", ["prompts=7"]).prompts == "7"
    recipe = load_recipe("tiny", ["prompts=[a,7]"])
    assert recipe.prompts == ["a", "7"] and [recipe.prompt_set(t) for t in (1, 2)] == ["a", "7"]
    assert load_recipe("tiny", ["prompts=[a,b,c]"]).rounds == 2  # one for a round to come
    folder = _copy_of_tiny(tmp_path, "prompts: [a, b]")
    with pytest.raises(BadInput, match="dice.yaml:1: prompts has 2 names for 3 rounds; each must have one"):
        load_recipe(str(folder), ["rounds=3"])
    with pytest.raises(BadInput) as caught:
        load_recipe(str(folder), ["prompts_per_round=5"])
    assert str(caught.value) == (
        "on the command line: prompts_per_round is 5, which shares out one set; prompts is a list "
        "and must be one name"
    )


def test_train_may_be_just_a_file_name(tmp_path):
    folder = _copy_of_tiny(tmp_path, "train: dpo.yaml")
    assert load_recipe(str(folder)).train.global_batch_size == 32


def test_a_recipe_of_ones_own_is_a_folder(tmp_path):
    assert load_recipe(str(_copy_of_tiny(tmp_path, "rounds: 5"))).rounds == 5


def _copy_of_tiny(folder, line):
    recipe = yaml.safe_load((RECIPES / "tiny" / "dice.yaml").read_text())
    recipe.pop(re.findall(r"^[^x\s]\w*", line, re.MULTILINE)[0])
    (folder / "dice.yaml").write_text(line + "\n" + yaml.safe_dump(recipe))
    (folder / "dpo.yaml").write_text((RECIPES / "tiny" / "dpo.yaml").read_text())
    return folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "replay.gama=0.5",
            "on the command line: unknown key 'replay.gama' (did you mean replay.gamma?); "
            "there are: replay.dataset, replay.gamma",
        ),
        ("colour=red", "on the command line: unknown key 'colour'; there are: policy, reference, "),
        ("sed=1", "on the command line: unknown key 'sed' (did you mean seed?); there are: policy, "),
        ("gamma=1", "on the command line: unknown key 'gamma' (did you mean replay.gamma?); there are: pol"),
        ("score.colour=1", "unknown key 'score.colour'; there are: score.reward, score.cutoff_len"),
        ("replay.gamma=1.5", "on the command line: replay.gamma is 1.5; it must be at most 1"),
        ("replay.gamma=-0.1", "replay.gamma is -0.1; it must be at least 0"),
        ("replay.gamma=nan", "replay.gamma is nan; it must be a finite number"),
        ("replay.gamma=half", "on the command line: replay.gamma is 'half'; it must be a number"),
        ("generate.samples=1", "generate.samples is 1; it must be at least 2"),
        (
            "generate.samples=4",
            "pair.min_samples is 8; it must be at most generate.samples, which is 4",
        ),
        ("generate.temperature=0", "generate.temperature is 0; it must be above 0"),
        ("generate.temperature=.inf", "generate.temperature is inf; it must be a finite number"),
        ("generate.temperature=2.5", "generate.temperature is 2.5; it must be at most 2"),
        ("generate.tensor_parallel=0", "generate.tensor_parallel is 0; it must be at least 1"),
        ("generate.tensor_parallel=2", "generate.tensor_parallel is 2; only vllm does that"),
        (
            "generate.engine_args.tensor_parallel_size=2",
            "tensor_parallel_size follows from the recipe; use generate.tensor_parallel",
        ),
        ("generate.engine_args.max_model_len=9", "max_model_len follows from the recipe; use generate.max_m"),
        ("generate.engine_args.dtype=half", "dtype follows from the recipe; use dtype"),
        ("generate.top_p=1.5", "generate.top_p is 1.5; it must be at most 1"),
        ("generate.engine=sglang", "generate.engine is 'sglang'; it must be 'auto', 'hf', 'vllm' or 'fake'"),
        ("pair.alpha=much", "pair.alpha is 'much'; it must be 'auto' or 'grid' or a number"),
        ("pair.length=words", "pair.length is 'words'; it must be 'chars' or 'tokens'"),
        ("rounds=0", "rounds is 0; it must be at least 1"),
        ("rounds=two", "on the command line: rounds is 'two'; it must be a whole number"),
        ("run=../elsewhere", "run is '../elsewhere'; a run's name has letters, digits, . _ -"),
        ("train.output_dir=x", "on the command line: train.output_dir follows from the rest of the recipe"),
        ("train.config=nope.yaml", "on the command line: train.config names "),
        ("prompts=", "on the command line: prompts is null; it must be a list or text"),
        ("prompts=[a,null]", "on the command line: prompts is null; it must be "),
        ("prompts=[a]", "on the command line: prompts has 1 name for 2 rounds; each must have one"),
        ("prompts=[]", "on the command line: prompts has 0 names for 2 rounds"),
        (
            "prompts=[a,b,a]",
            "on the command line: prompts has a twice; each round must have a set of its own",
        ),
        ("prompts_per_round=0", "on the command line: prompts_per_round is 0; it must be at least 1"),
        ("prompts_per_round=2.5", "prompts_per_round is 2.5; it must be a whole number"),
        ("reference=null", "on the command line: reference is null; it must be text"),
        ("train.config=null", "on the command line: train.config is null; it must be text"),
        ("train.args=5", "on the command line: train.args is 5; it must be a mapping"),
        ("train=5", "on the command line: train is 5; it must be a group of keys"),
        ("pair.rejected=best", "pair.rejected is 'best'; it must be 'worst', 'random' or 'sigma'"),
        ("pair.per_prompt=9", "pair.per_prompt is 9; it must be at most half of generate.samples, 8"),
        ("pair.min_margin=-1", "pair.min_margin is -1; it must be at least 0"),
        ("generate=3", "on the command line: generate is 3; it must be a group of keys"),
        ("train.stage=sft", "on the command line: train.stage must be dpo"),
        ("train.finetuning_type=oft", "train.finetuning_type must be full, freeze or lora"),
        ("train.per_device_train_batch_size=0", "train.per_device_train_batch_size must be a whole number"),
        ("rounds", "on the command line: 'rounds' is not of the form key=value"),
        ("evaluate.judge=null", "evaluate.judge and evaluate.prompts go together"),
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
        (
            "replay: {dataset: null, gamma: 0.5}",
            "dice.yaml:1: replay.dataset must name a preference set, since replay.gamma is 0.5",
        ),
    ],
)
def test_mistakes_in_a_recipe_file_are_named_by_line(tmp_path, line, message):
    recipe = yaml.safe_load((RECIPES / "tiny" / "dice.yaml").read_text())
    recipe.pop(line.split(":")[0], None)
    (tmp_path / "dice.yaml").write_text(line + "\n" + yaml.safe_dump(recipe))
    (tmp_path / "dpo.yaml").write_text("stage: dpo\nfinetuning_type: full\n")
    with pytest.raises(BadInput) as caught:
        load_recipe(str(tmp_path))
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


def test_an_unknown_recipe_is_told_what_there_is():
    with pytest.raises(BadInput, match="'llama4'; there are: llama3, llama3-lora, qwen, qwen-small, smollm2"):
        load_recipe("llama4")


def test_a_missing_key_is_named(tmp_path):
    (tmp_path / "dice.yaml").write_text("reference: a\ntemplate: b\nprompts: c\nreplay: {gamma: 0}\n")
    (tmp_path / "dpo.yaml").write_text("stage: dpo\n")
    with pytest.raises(BadInput, match="policy is missing; a recipe needs policy, reference, template"):
        load_recipe(str(tmp_path))


def test_known_keys_are_spelled_out():
    assert {"policy", "replay.gamma", "generate.engine_args", "train.config"} <= set(known_keys())


def test_keys_of_ones_own_are_for_anchors(tmp_path):
    """They begin with x-, are not part of the recipe, and are the file's alone."""
    line = "x-short: &short {max_new_tokens: 7, top_p: 0.5}\ngenerate: {<<: *short, samples: 9}"
    recipe = load_recipe(str(_copy_of_tiny(tmp_path, line)), ["generate.top_p=0.75"])
    assert (recipe.generate.max_new_tokens, recipe.generate.samples, recipe.generate.top_p) == (7, 9, 0.75)
    assert "x-short" not in resolved_yaml(recipe)
    with pytest.raises(BadInput, match="on the command line: unknown key 'x-short'"):
        load_recipe(str(tmp_path), ["x-short=1"])
    (tmp_path / "recipe.yaml").write_text("x-short: 1\n" + resolved_yaml(recipe))
    with pytest.raises(BadInput, match="recipe.yaml:1: unknown key 'x-short'"):
        load_resolved(tmp_path / "recipe.yaml")


def test_a_value_of_an_anchor_is_refused_where_it_stands(tmp_path):
    line = "x-few: &few\n  samples: 1\ngenerate: *few"
    with pytest.raises(BadInput, match=r"dice.yaml:2: generate.samples is 1; it must be at least 2"):
        load_recipe(str(_copy_of_tiny(tmp_path, line)))


def test_an_unquoted_no_is_a_strategy():
    assert load_recipe("tiny", ["train.save_strategy=no"]).train.args["save_strategy"] == "no"
    assert load_recipe("tiny", ["train.pure_bf16=no"]).train.args["pure_bf16"] is False


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


def test_models_are_looked_for_in_the_checkout_and_where_one_stands(tmp_path, monkeypatch):
    """Scripts go to the checkout before a recipe is read: DICE_HERE says where they were started."""
    for name in ("mine", "train", "policy", "scripts"):
        (tmp_path / name).mkdir()
    words = ["policy=mine", "reference=scripts", "score.judge=./mine"]
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("tiny", words)
    assert recipe.policy == recipe.score.judge == str(tmp_path / "mine")
    assert recipe.reference == "scripts"  # the checkout has it, too, and comes first
    assert recipe.score.reward_model == "train"  # which is no path there
    assert load_recipe("tiny", ["score.judge=policy"]).score.judge == "policy"
    monkeypatch.chdir("/")
    assert load_recipe("tiny", words).policy == "mine"
    monkeypatch.setenv("DICE_HERE", str(tmp_path))
    assert load_recipe("tiny", words).policy == str(tmp_path / "mine")
