"""Bad input at the start: one clear line, status 2, nothing written."""

import json
import shutil
import sys

import pytest
from commands import run_script

from dice.errors import BadInput
from dice.recipe import load
from dice.recipe.paths import RECIPES, ROOT, recipe_names
from dice.stages import checks, prepare

ITER = "scripts/run_dice/iter.sh"


def refused(tmp_path, *arguments, **env):
    """iter.sh ends with status 2 and one line on stderr, and results stay empty; that line."""
    result = run_script("bash", ITER, *arguments, **env)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    assert not (tmp_path / "results").exists()
    return lines[0]


@pytest.mark.slow
def test_unknown_recipe_key_and_value(fake_settings, tmp_path):
    assert f"'tyni'; there are: {', '.join(recipe_names())}" in refused(tmp_path, "tyni")
    assert "unknown key 'replay.gama'" in refused(tmp_path, "tiny", *fake_settings, "replay.gama=1")


def test_what_is_no_override():
    result = run_script("bash", ITER, "tiny", "--rounds=3")
    assert (result.returncode, result.stderr) == (2, "error: '--rounds=3' is not of the form key=value\n")
    result = run_script("bash", ITER)
    assert result.returncode == 2 and f"Recipes: {' '.join(recipe_names())}" in result.stdout


@pytest.mark.slow
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
        prepare.start("tiny", fake_settings)
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
        prepare.start("tiny", [*fake_settings, override])
    assert BAD_NAMES[override] in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_an_unknown_template():
    def check(name):
        return checks.check_template(load.load_recipe("tiny", [f"template={name}"]), str)

    with pytest.raises(BadInput, match="template: unknown template 'llama-3'; there are: .*llama3-custom"):
        check("llama-3")
    assert check("zephyr-custom") == "zephyr-custom"
    assert check("qwen") == "qwen"


def test_where_a_wrong_template_or_model_comes_from(fake_settings, tmp_path):
    """With a real engine, so that templates and models are looked at."""
    for name in ("dice.yaml", "dpo.yaml"):
        (tmp_path / name).write_text((RECIPES / "tiny" / name).read_text().replace("tiny/dpo", "nope"))
    before, _, _ = (tmp_path / "dice.yaml").read_text().partition("policy:")
    settings = [*fake_settings[1:], "generate.engine=hf"]
    with pytest.raises(BadInput, match="^on the command line: template: unknown template 'x'; there are: "):
        prepare.start(str(tmp_path), [*settings, "template=x"])
    with pytest.raises(
        BadInput, match=rf"dice.yaml:{before.count(chr(10)) + 1}: policy: 'data/nope' is neither"
    ):
        prepare.start(str(tmp_path), settings)


def test_a_batch_that_can_not_be_split(monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "3")
    with pytest.raises(BadInput, match="is 32, which 3 processes can't share evenly"):
        checks.check_batch(load.load_recipe("tiny"))


def test_vllm_where_it_is_not_installed(monkeypatch):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="generate.engine is vllm, which is not installed"):
        checks.check_engine(load.load_recipe("tiny", ["generate.engine=vllm"]), str)


def test_preparation_that_fails(tmp_path):
    with pytest.raises(Exception, match="failed with status 3"):
        prepare.prepare("python -c 'raise SystemExit(3)'", tmp_path)


def test_preparation_that_is_no_command():
    for command in ("no-such-command", "python 'unbalanced", ""):
        with pytest.raises(BadInput, match="is no command that can be run"):
            prepare.prepare(command, ROOT)


def test_too_few_offline_pairs_for_gamma(fake_settings):
    """20 offline prompts and gamma 0.99: int(20 * 0.01) is 0."""
    with pytest.raises(BadInput, match="replay.dataset: the offline set has 20 prompts, .* missing: 80"):
        prepare.start("tiny", [*fake_settings, "replay.gamma=0.99"])


def test_results_that_can_not_be_written(fake_settings, tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(BadInput, match="results_dir: .*tiny can't be written to"):
        prepare.start("tiny", fake_settings)


def test_workers_that_make_no_sense_are_found_before_round_1(fake_settings, tmp_path):
    line = refused(tmp_path, "tiny", *fake_settings, NPROC_PER_NODE="none")
    assert line == "error: environment: NPROC_PER_NODE is 'none'; it must be a number of at least 1"


def test_a_python_that_is_none():
    for path in ("/nowhere/python", "/tmp"):
        result = run_script("bash", ITER, "tiny", DICE_PYTHON=path)
        assert result.returncode == 2
        assert result.stderr.startswith(f"setup: DICE_PYTHON is '{path}', which is no program")


def test_iter_through_a_link(tmp_path):
    (tmp_path / "iter").symlink_to(ROOT / ITER)
    result = run_script("bash", str(tmp_path / "iter"), "tyni")
    assert result.returncode == 2 and f"there are: {', '.join(recipe_names())}" in result.stderr


def test_an_argument_too_many_is_refused_before_anything_is_done(fake_run):
    result = run_script(sys.executable, "-m", "dice", "generate", str(fake_run.path), "1", "seed=3")
    assert result.returncode == 2 and result.stderr == (
        "error: generate takes no 'seed=3'; see `dice generate --help`\n"
    )
    assert not fake_run.round_dir(1).exists()


def test_pipeline_by_hand_without_arguments():
    result = run_script("bash", "scripts/run_dice/pipeline.sh")
    assert result.returncode == 2 and result.stderr.startswith("error: give a run's folder")


def test_starting_again_with_another_recipe_says_what_changed(fake_settings, tmp_path, capsys):
    prepare.start("tiny", fake_settings)
    prepare.start("tiny", [*fake_settings, "seed=1"])
    assert "recipe    seed 42 -> 1" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stage_whose_input_is_missing_says_which_comes_first(fake_run):
    for stage, first in (("score", "generate"), ("pair", "generate"), ("train", "pair")):
        result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice {stage} {fake_run.path} 1")
        assert result.returncode == 2
        assert f"run `python -m dice {first} {fake_run.path} 1` first" in result.stderr
    result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice generate {fake_run.path} 2")
    assert result.returncode == 2 and f"run `python -m dice train {fake_run.path} 1` first" in result.stderr
    result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice generate {fake_run.path} 9")
    assert result.returncode == 2 and "this run has rounds 1 to 2" in result.stderr


def test_status_of_a_run_and_of_all(fake_run):
    result = run_script("bash", "-c", f"exec $DICE_PYTHON -m dice status {fake_run.path}")
    assert result.returncode == 0 and result.stdout.count("to do") == 9  # 2 rounds of 4, evaluation
    result = run_script("bash", "-c", "exec $DICE_PYTHON -m dice status /nowhere")
    assert result.returncode == 2 and "no run here" in result.stderr


def test_sets_of_prompts_only_need_no_replay(data_dir, fake_settings):
    (data_dir / "pairs.jsonl").unlink()
    prepare.start("tiny", [*fake_settings, "replay.gamma=0", "replay.dataset=null"])
    registry = json.loads((data_dir / "dataset_info.json").read_text())
    assert "some_prompts" in registry


def settings_with_models(fake_settings, policy, reference):
    """`fake_settings` with real models, and an engine that looks at them."""
    own = [
        word for word in fake_settings if not word.startswith(("policy=", "reference=", "generate.engine="))
    ]
    return [*own, "generate.engine=hf", f"policy={policy}", f"reference={reference}"]


def test_a_policy_that_is_its_own_reference(fake_settings, random_model, tmp_path):
    twin = shutil.copytree(random_model, tmp_path / "twin")
    for reference, how in ((random_model, "are both"), (twin, "have the same weights")):
        with pytest.raises(BadInput, match=f"policy .*reference .*{how}.*: every implicit reward would be 0"):
            prepare.start("tiny", settings_with_models(fake_settings, random_model, reference))
    assert not (tmp_path / "results").exists()


def test_a_template_that_does_not_fit_is_found_before_round_1(
    fake_settings, random_model, other_random_model
):
    settings = settings_with_models(fake_settings, random_model, other_random_model)
    with pytest.raises(BadInput, match="^on the command line: template 'chatml' needs the tokens .*im_start"):
        prepare.start("tiny", [*settings, "template=chatml"])
    prepare.start("tiny", [*settings, "train.global_batch_size=4"])


def test_too_few_rows_to_train_on_are_found_before_round_1(fake_settings, random_model, other_random_model):
    settings = settings_with_models(fake_settings, random_model, other_random_model)
    with pytest.raises(BadInput, match="global_batch_size is 32, but only 20 pairs are left to train on"):
        prepare.start("tiny", settings)
    with pytest.raises(BadInput, match="train.val_size is 30, but the round has only 20 pairs"):
        prepare.start("tiny", [*settings, "train.val_size=30", "train.global_batch_size=4"])
