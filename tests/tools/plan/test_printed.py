"""`python -m dice plan`: what it prints, and what it refuses."""

import json
import re
import shutil

import pytest

from dice.errors import BadInput
from dice.launch import hardware
from dice.launch.hardware import GPUS
from dice.recipe.paths import RECIPES
from dice.stages import generate
from dice.stages.order import execute
from dice.stages.prepare import load, start
from dice.tools import plan
from dice.tools.plan.budget import budget
from dice.tools.plan.sizes import size_of

A100 = GPUS["A100-80G"]


def printed(capsys, name, *overrides):
    plan.show_plan(name, list(overrides))
    return capsys.readouterr().out


def test_the_plan_of_a_run_that_is_not_begun(fake_settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DICE_DEVICE", "cpu")
    shown = printed(capsys, "tiny", *fake_settings)
    assert "80 responses to 10 prompts" in shown and "done" not in shown
    assert shown.count("to do") == 9 and "no GPU was found" in shown
    assert not (tmp_path / "results").exists()
    shown = printed(capsys, "tiny", *fake_settings, "evaluate.preferences=some_pairs")
    assert shown.count("agree") == 3 and "20 held-out labels" in shown  # before round 1 and after each round


def test_the_plan_of_a_run_that_is_begun(fake_settings, capsys):
    run = start("tiny", fake_settings)
    execute(generate.STAGE, run, 1)
    capsys.readouterr()
    before = sorted(run.path.rglob("*"))
    shown = printed(capsys, "tiny", *fake_settings)
    assert shown.count("done in") == 1 and shown.count("to do") == 8
    assert (
        "a response: " not in shown
        and "as sampled in round 1" in shown
        and "as measured in this run: the time of generate" in shown
    )
    path = run.round_dir(1) / "generate.manifest.json"
    manifest = path.read_text()
    path.write_text(json.dumps({**json.loads(manifest), "resumed": True}))  # the seconds are of a part
    assert "as measured in this run" not in printed(capsys, "tiny", *fake_settings)
    path.write_text(manifest)
    shown = printed(capsys, "tiny", *fake_settings, "generate.temperature=0.5")
    assert "again: generate.temperature 0.9 -> 0.5" in shown and "done in" not in shown
    shutil.rmtree(run.round_dir(1) / "responses")
    assert "again: responses/part-00000.jsonl is missing" in printed(capsys, "tiny", *fake_settings)
    assert sorted(run.path.rglob("*")) == [path for path in before if "responses" not in str(path)]


@pytest.mark.parametrize("name", ["llama3", "zephyr"])
def test_the_plan_of_models_that_are_not_here(name, capsys):
    shown = printed(capsys, name, "gpus=8xA100-80G")
    assert shown.count("billion parameters, from its name; not on this machine: 1") == 2
    assert "8 x A100-80G, 80 GiB each, as given" in shown and "GPU hours" in shown
    (total, longer) = re.search(
        r"in all[^\n]* ([\d.]+) h.*at 700 tokens a response: ([\d.]+) h in all", shown, re.S
    ).groups()
    assert 1.2 * float(total) < float(longer) < 2 * float(total)
    assert "!" not in shown  # the recipe's own hardware suffices
    shown = printed(capsys, name, "gpus=rtx-4090")
    assert re.search("! train needs about .*what helps: at least (8|16|32) of these GPUs, LoRA", shown)
    words = ("gpus=1x1G", "train.finetuning_type=lora", "train.quantization_bit=4")
    assert "what helps: a GPU with more memory, a smaller model" in " ".join(
        printed(capsys, name, *words).split()
    )


def test_the_plan_of_a_model_that_nobody_knows(capsys):
    shown = printed(capsys, "llama3", "policy=some/model", "gpus=H200")
    assert "some/model: size unknown; not on this machine: to be downloaded" in shown
    assert "disk       unknown" in shown


def test_a_disk_that_is_too_small(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    disk = next(line for line in printed(capsys, "llama3", "gpus=H200").splitlines() if line[:4] == "disk")
    assert disk.endswith("are free; not enough") and "[" not in disk


def test_what_prepare_makes_is_made_by_a_command(capsys, tmp_path):
    (tmp_path / "dice.yaml").write_text(
        (RECIPES / "tiny" / "dice.yaml").read_text().replace("data/tiny/", "data/not-made/")
    )
    shutil.copy(RECIPES / "tiny" / "dpo.yaml", tmp_path)
    shown = printed(capsys, str(tmp_path), "rounds=1")
    assert f"run `python -m dice prepare {tmp_path} rounds=1`, then plan again" in shown
    assert "data/not-made/dpo: size unknown; not on this machine: `prepare` makes it" in shown


def test_data_that_prepare_makes(fake_settings, data_dir, tmp_path, capsys):
    """How many prompts there will be is a guess until it is made, so the plan says how to make it."""
    info = json.loads((data_dir / "dataset_info.json").read_text())
    info["later"] = info["some_prompts"] | {"file_name": "later.json"}
    (data_dir / "dataset_info.json").write_text(json.dumps(info))
    recipe = (RECIPES / "tiny" / "dice.yaml").read_text().replace("prompts: tiny_prompts", "prompts: later")
    (tmp_path / "dice.yaml").write_text(recipe)
    shutil.copy(RECIPES / "tiny" / "dpo.yaml", tmp_path)
    here = [word for word in fake_settings if not word.startswith(("prepare=", "prompts="))]
    assert "then plan again" not in printed(capsys, str(tmp_path), *here, "prompts=some_prompts")
    shown = printed(capsys, str(tmp_path), *here)
    assert "10,000 prompts: the data set is not here yet" in shown and "then plan again" in shown
    shown = printed(capsys, str(tmp_path), *here, "train.max_steps=10")
    assert "320 prompts: the data set is not here yet" in shown and "then plan again" not in shown


def test_a_batch_that_these_gpus_can_not_share():
    with pytest.raises(BadInput, match="is 32, which 3 processes can't share evenly"):
        plan.show_plan("llama3", ["gpus=3xH200"])


def test_what_start_refuses_the_plan_refuses(fake_settings, random_model, tmp_path):
    for overrides, message in (
        (["train.learning_rat=1"], "unknown key 'train.learning_rat'"),
        (['train.max_steps="300"'], "train.max_steps is '300'; LLaMA-Factory takes int"),
        (["prompts=nope"], "no data set 'nope'"),
        (["replay.gama=1"], "unknown key 'replay.gama'"),
        (["policy=no/such/model"], "neither a folder here nor a model of the Hub"),
    ):
        with pytest.raises(BadInput, match=message):
            plan.show_plan("llama3", overrides)
    with pytest.raises(BadInput, match="unknown recipe 'tyni'"):
        plan.show_plan("tyni", [])


def test_checkpoints_and_adapters_on_the_disk(fake_settings, random_model):
    """Full checkpoints take 14 more bytes a parameter while training; an adapter is small."""
    others = [word for word in fake_settings if not word.startswith(("policy=", "generate.engine="))]
    settings = [*others, f"policy={random_model}", "generate.engine=hf", "train.save_strategy=no"]
    machine, parameters = hardware.find(), size_of(str(random_model)).parameters
    models, texts, checkpoints = budget(load("tiny", settings), machine).disk
    assert models == 2 * size_of(str(random_model)).weights and checkpoints == 0 and texts > 80 * 330
    saving = [*settings, "train.save_strategy=steps", "train.save_steps=1"]  # one goes once the next is there
    assert budget(load("tiny", saving), machine).disk[2] == 2 * 14 * parameters


def test_the_plan_knows_where_rewards_come_from(fake_settings, random_model, other_random_model):
    """A reward model reads with one model instead of two; nobody knows how long a judge takes."""
    machine = hardware.parse_gpus("2xA100-80G")

    def plan(*words):
        models = [f"policy={random_model}", f"reference={other_random_model}", "generate.engine=hf"]
        return budget(load("tiny", [*fake_settings, *models, *words]), machine)

    implicit, trained = plan(), plan("score.reward=reward_model")
    assert trained.cost("score").seconds < implicit.cost("score").seconds
    assert trained.cost("train_rm").seconds > 0 and trained.ranked == 20
    assert trained.cost("train").seconds > implicit.cost("train").seconds  # the reference of every pair
    assert plan("score.reward=judge").cost("score") is None
    assert plan("score.reward=random").cost("score").memory == 0
