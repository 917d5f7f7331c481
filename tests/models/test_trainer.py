"""The trainer's command line: batch sizes, what a CPU can't do, the checkpoint's files."""

import pytest

from dice.errors import BadInput
from dice.launch import devices
from dice.models import trainer
from dice.recipe.load import load_recipe
from dice.run import files
from dice.run.manifests import PASSING
from dice.run.run import Run
from dice.stages.train import _outcome, _scores_are_of_use, check_rows, round_config


@pytest.mark.parametrize(
    ("global_batch", "per_device", "processes", "expected"),
    [
        (32, 1, 8, (1, 4)),  # the paper's: 1 x 4 x 8
        (32, 1, 1, (1, 32)),
        (32, 2, 4, (2, 4)),
        (32, 32, 1, (32, 1)),
        (32, 32, 8, (4, 1)),  # no more than the share
        (24, 5, 2, (4, 3)),  # 12 each: 4 is the largest divisor up to 5
        (32, 3, 2, (2, 8)),
    ],
)
def test_the_global_batch_is_kept(global_batch, per_device, processes, expected):
    size, steps = trainer.batch_sizes(global_batch, per_device, processes)
    assert (size, steps) == expected and size * steps * processes == global_batch


def test_a_global_batch_that_can_not_be_kept():
    with pytest.raises(BadInput, match="is 32, which 5 processes can't share evenly; use 1, 2, 4, 8, 16, 32"):
        trainer.batch_sizes(32, 1, 5)


def test_without_a_gpu_what_needs_one_is_left_out(monkeypatch):
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: False)
    asked = {"bf16": True, "deepspeed": "x.json", "learning_rate": 1e-6, "per_device_train_batch_size": 2}
    cpu = trainer.adapt(asked, 8, 1, on_gpu=False)
    assert (cpu["bf16"], cpu["deepspeed"], cpu["learning_rate"]) == (False, None, 1e-6)
    assert "use_cpu" not in cpu and trainer.dtype_of(cpu) == "float32"
    gpu = trainer.adapt(asked, 8, 2, on_gpu=True)
    assert "use_cpu" not in gpu and trainer.dtype_of(gpu) == "bfloat16"
    assert gpu["bf16"] and gpu["deepspeed"].endswith("/x.json")
    assert (gpu["per_device_train_batch_size"], gpu["gradient_accumulation_steps"]) == (2, 2)
    whole = asked | {"deepspeed": {"zero_optimization": {"stage": 2}}}
    assert trainer.adapt(whole, 8, 2, on_gpu=True)["deepspeed"] == whole["deepspeed"]


def test_a_cpu_that_has_bfloat16_trains_in_it(monkeypatch):
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: True)
    cpu = trainer.adapt({"bf16": True, "deepspeed": "x.json"}, 8, 1, on_gpu=False)
    assert cpu["bf16"] and cpu["use_cpu"] and cpu["deepspeed"] is None
    for asked in ({}, {"bf16": False}, {"fp16": True}):
        assert trainer.dtype_of(trainer.adapt(asked, 8, 1, on_gpu=False)) == "float32"


@pytest.mark.parametrize(
    ("asked", "autocast", "float32_weights"),
    [
        ({"bf16": True, "finetuning_type": "full"}, True, True),
        ({"bf16": True, "finetuning_type": "lora"}, True, False),
        ({"bf16": True, "finetuning_type": "full", "deepspeed": "x.json"}, False, False),
        ({"pure_bf16": True, "finetuning_type": "full"}, False, False),
        ({"finetuning_type": "full"}, False, False),
    ],
)
def test_how_a_training_computes(asked, autocast, float32_weights):
    gpu = trainer.on_device(asked, on_gpu=True)
    assert trainer.precision(gpu) == {"autocast": autocast, "float32_weights": float32_weights}


@pytest.mark.parametrize(("has", "bf16", "of_use"), [(1, 1, True), (1, 0, False), (0, 1, True), (0, 0, True)])
def test_scores_in_bfloat16_are_of_use_to_a_training_in_it(monkeypatch, has, bf16, of_use):
    """On a CPU that has no instructions for it both are in float32."""
    monkeypatch.setenv("DICE_DEVICE", "cpu")
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: bool(has))
    recipe = load_recipe("tiny", ["dtype=auto", f"train.bf16={bool(bf16)}"])
    assert _scores_are_of_use(recipe) is of_use


def test_a_rounds_configuration(tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5,6,7")
    run = Run(tmp_path, load_recipe("llama3"))
    (tmp_path / "round-1" / "model").mkdir(parents=True)
    first, second = round_config(run, 1), round_config(run, 2)
    assert first["model_name_or_path"] == "princeton-nlp/Llama-3-Base-8B-SFT-DPO"
    assert second["model_name_or_path"] == str(tmp_path / "round-1" / "model")
    assert first["reference_logps"] == second["reference_logps"] == "table"
    assert "ref_model" not in first and "ref_model" not in second
    upstream = round_config(Run(tmp_path, load_recipe("llama3", ["train.reference_logps=model"])), 2)
    assert upstream["reference_logps"] == "model"
    assert upstream["ref_model"] == upstream["model_name_or_path"] == second["model_name_or_path"]
    assert first["gradient_accumulation_steps"] * first["per_device_train_batch_size"] * 8 == 32
    assert first["deepspeed"].endswith("llama-factory/examples/deepspeed/zero3.json")
    assert (first["template"], first["cutoff_len"], first["report_to"]) == ("llama3-custom", 4096, "none")
    assert first["seed"] != second["seed"]


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (31, [], "train.global_batch_size is 32, but only 31 pairs are left to train on: more prompts"),
        (600, ["train.val_size=590"], "only 10 pairs are left to train on after 590 for validation"),
        (600, ["train.val_size=0.98"], "only 12 pairs are left to train on after 588 for validation"),
        (500, ["train.val_size=576"], "train.val_size is 576, but the round has only 500 pairs"),
    ],
)
def test_a_round_that_is_too_small_to_train_on(rows, changes, message):
    with pytest.raises(BadInput, match=message):
        check_rows(rows, load_recipe("tiny", changes))
    check_rows(10_000, load_recipe("tiny", changes))


def test_responses_that_scoring_and_training_encode_differently_are_warned_of():
    recipe = load_recipe("tiny")
    trained = trainer.Trained(64, 0, [], {"known": 60, "computed": 68})
    assert _outcome(64, trained, recipe, expected=60).warnings == []
    (warning,) = _outcome(64, trained, recipe, expected=64).warnings
    assert warning.startswith("scoring encodes 4 of 64 generated responses otherwise than training")


def test_equal_trainings_differ_in_their_speed_alone():
    """It is told, and stands in the manifest beside the seconds: not in what is compared."""
    speed = {"tokens_per_second": 1234.5, "share_of_matrix_rate": 0.213}
    recipe = load_recipe("tiny")
    slow, fast = (_outcome(64, trainer.Trained(64, 0, [], speed=found), recipe, 0) for found in ({}, speed))
    assert fast.notes == ["1,234 tokens/s, 21% of the GPUs' matrix rate"]
    assert (slow.notes, slow.summary) == ([], fast.summary)
    assert {key: fast.figures[key] for key in fast.figures if key not in PASSING} == slow.figures


def test_only_the_checkpoints_files_become_the_model(tmp_path):
    work, model = tmp_path / "train", tmp_path / "model"
    (work / "datasets-cache").mkdir(parents=True)
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "training_args.bin",
        "README.md",
        "reference.safetensors",
    ):
        (work / name).write_text(name)
    (work / "model.safetensors").chmod(0o600)  # as its writer leaves it
    files.write_text(model / "stale.json", "left by something else")
    trainer.collect(work, model)
    assert sorted(path.name for path in model.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert {path.stat().st_mode & 0o777 for path in model.iterdir()} == {model.stat().st_mode & 0o666}
    assert not work.exists()
