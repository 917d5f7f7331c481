"""Bad input at the start: one clear line, status 2, nothing written."""

import json

import pytest
from conftest import run_script

from dice import recipe_io, start
from dice.errors import BadInput
from dice.recipe import RECIPES, ROOT, recipe_names

ITER = "scripts/run_dice/iter.sh"


def refused(tmp_path, *arguments, **env):
    """iter.sh ends with status 2 and one line on stderr, and results stay empty; that line."""
    result = run_script("bash", ITER, *arguments, **env)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert not (tmp_path / "results").exists()
    return lines[0]


def test_unknown_recipe_key_and_value(fake_settings, tmp_path):
    assert "unknown recipe 'tyni'; there are: llama3, tiny, zephyr" in refused(tmp_path, "tyni")
    assert "unknown key 'replay.gama'" in refused(tmp_path, "tiny", *fake_settings, "replay.gama=1")


def test_what_is_no_override():
    result = run_script("bash", ITER, "tiny", "--rounds=3")
    assert (result.returncode, result.stderr) == (2, "error: '--rounds=3' is not of the form key=value\n")
    result = run_script("bash", ITER)
    assert result.returncode == 2 and "Recipes: llama3 tiny zephyr" in result.stdout


def test_called_from_elsewhere_with_a_recipe_beside(fake_settings, tmp_path):
    """A recipe folder relative to where one is; results with a space in their path."""
    for name in ("dice.yaml", "dpo.yaml"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_text((RECIPES / "tiny" / name).read_text())
    command = f"cd {tmp_path} && bash {ROOT}/{ITER} mine {' '.join(fake_settings)} rounds=1"
    spaced = f"'results_dir={tmp_path}/my results'"
    result = run_script("bash", "-c", f"{command} {spaced}")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "my results" / "mine" / "round-1" / "model").is_dir()


def test_broken_json_in_the_prompts(fake_settings, data_dir, tmp_path):
    (data_dir / "prompts.json").write_text('[{"instruction": "a"},\n{"instruction": }]')
    assert "prompts.json:2: not JSON" in refused(tmp_path, "tiny", *fake_settings)


BAD_DATA = {
    "no column": ("prompts.json", '[{"question": "a"}]', "prompts.json:1: no column 'instruction'"),
    "empty set": ("prompts.json", "[]", "has no usable prompt"),
    "bad pairs": (
        "pairs.jsonl",
        '{"instruction": "a", "chosen": "b"}',
        "pairs.jsonl:1: no column 'rejected'",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(fake_settings, data_dir, case):
    name, content, message = BAD_DATA[case]
    (data_dir / name).write_text(content)
    with pytest.raises(BadInput) as caught:
        start.start("tiny", fake_settings)
    assert message in str(caught.value)


BAD_NAMES = {
    "prompts=nope": "no data set 'nope'; there are: some_pairs, some_prompts",
    "replay.dataset=nope": "no data set 'nope'",
    "replay.dataset=some_prompts": "not a preference set",
    "dataset_dir=/nowhere": "dataset_info.json does not exist",
    "evaluate.judge=gone.py:f": "gone.py does not exist",
}


@pytest.mark.parametrize("override", BAD_NAMES)
def test_names_of_nothing(fake_settings, tmp_path, override):
    with pytest.raises(BadInput) as caught:
        start.start("tiny", [*fake_settings, override])
    assert BAD_NAMES[override] in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/model", "policy: 'no/such/model' is neither a folder here nor a model of the Hub"),
        ("org/no-such-model", "policy: 'org/no-such-model' is neither a folder here nor a model of the Hub"),
        ("tests", "tests has no config.json; it is not a Hugging Face model folder"),
    ],
)
def test_models_that_are_not_there(name, message):
    with pytest.raises(BadInput) as caught:
        start.check_model("policy", name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_template():
    with pytest.raises(BadInput, match="template: unknown template 'llama-3'; there are: .*llama3-custom"):
        start.check_template("llama-3")
    start.check_template("zephyr-custom")
    start.check_template("qwen")


def test_a_batch_that_can_not_be_split(monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "3")
    with pytest.raises(BadInput, match="is 32, which 3 processes can't share evenly"):
        start.check_batch(recipe_io.load_recipe("tiny"))


def test_vllm_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(start.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="generate.engine is vllm, which is not installed"):
        start.check_engine("vllm")


def test_an_argument_that_llama_factory_does_not_have():
    with pytest.raises(BadInput, match="unknown key 'train.learning_rat': .*did you mean learning_rate"):
        start.check_train_args(recipe_io.load_recipe("tiny", ["train.learning_rat=1", "run=never-started"]))
    with pytest.raises(BadInput, match="train.deepspeed: .*gone.json does not exist"):
        start.check_train_args(recipe_io.load_recipe("tiny", ["train.deepspeed=gone.json"]))


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipes_training_file_is_known_to_llama_factory(name):
    start.check_train_args(recipe_io.load_recipe(name, ["run=never-started"]))


def test_preparation_that_fails(tmp_path):
    with pytest.raises(Exception, match="failed with status 3"):
        start.prepare("python -c 'raise SystemExit(3)'")


def test_starting_again_with_another_recipe_says_what_changed(fake_settings, tmp_path, capsys):
    start.start("tiny", fake_settings)
    start.start("tiny", [*fake_settings, "seed=1"])
    assert "recipe    seed 42 -> 1" in capsys.readouterr().out


def test_a_stage_whose_input_is_missing_says_which_comes_first(fake_run):
    for stage, first in (("score", "generate"), ("pair", "score"), ("train", "pair")):
        result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice {stage} {fake_run.path} 1")
        assert result.returncode == 2
        assert f"run `python -m dice {first} {fake_run.path} 1` first" in result.stderr
    result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice generate {fake_run.path} 2")
    assert result.returncode == 2 and "round 1 has no model yet" in result.stderr
    result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice generate {fake_run.path} 9")
    assert result.returncode == 2 and "this run has rounds 1 to 2" in result.stderr


def test_status_of_a_run_and_of_all(fake_run):
    result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice status {fake_run.path}")
    assert result.returncode == 0 and result.stdout.count("to do") == 8
    result = run_script("bash", "-c", "exec $DICE_PYTHON -m dice status /nowhere")
    assert result.returncode == 2 and "no run here" in result.stderr


def test_sets_of_prompts_only_need_no_replay(data_dir, fake_settings):
    (data_dir / "pairs.jsonl").unlink()
    start.start("tiny", [*fake_settings, "replay.gamma=0", "replay.dataset=null"])
    registry = json.loads((data_dir / "dataset_info.json").read_text())
    assert "some_prompts" in registry
