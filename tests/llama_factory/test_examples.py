"""The configurations under llama-factory/examples and in the recipes are ones that their readers take."""

import json
from pathlib import Path

import pytest
import yaml
from commands import run_python

from dice.recipe.load import load_recipe
from dice.recipe.paths import ROOT, recipe_names

EXAMPLES = ROOT / "llama-factory" / "examples"
DEEPSPEED = sorted((EXAMPLES / "deepspeed").glob("*.json"))
ACCELERATE = sorted((EXAMPLES / "accelerate").glob("*.yaml"))


def test_there_are_examples():
    assert [path.stem for path in DEEPSPEED] == ["zero2", "zero3", "zero3_offload"]
    assert [path.stem for path in ACCELERATE] == ["ddp", "fsdp"]


@pytest.mark.slow
@pytest.mark.parametrize("path", DEEPSPEED, ids=lambda path: path.stem)
def test_deepspeed_takes_it(path):
    """With every `auto` filled in from the trainer's arguments, DeepSpeed reads the stage of the name."""
    script = """
import json, sys
from deepspeed.runtime.config import DeepSpeedConfig
from transformers import TrainingArguments
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
args = TrainingArguments("out", per_device_train_batch_size=2, gradient_accumulation_steps=4, use_cpu=True)
config = HfTrainerDeepSpeedConfig(sys.argv[1])
config.trainer_config_process(args)
config.config["train_batch_size"] = 8
for key in ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold"):
    if config.config["zero_optimization"].get(key) == "auto":
        config.config["zero_optimization"][key] = 10_000
read = DeepSpeedConfig(config.config)
print(json.dumps([read.zero_optimization_stage, read.train_micro_batch_size_per_gpu,
                  bool(read.zero_config.offload_param)]))
"""
    result = run_python(script, str(path))
    assert result.returncode == 0, result.stderr[-2000:]
    stage, size, offloads = json.loads(result.stdout.splitlines()[-1])
    assert (stage, size) == (int(path.stem[4]), 2) and offloads == ("offload" in path.stem)


@pytest.mark.slow
@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_takes_it(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8 and config.mixed_precision == "bf16"
    assert config.distributed_type.value == {"ddp": "MULTI_GPU", "fsdp": "FSDP"}[path.stem]


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipes_training_file_is_of_use_without_the_loop(name):
    """The files that it names exist, and what it says agrees with dice.yaml."""
    recipe = load_recipe(name)
    file = yaml.safe_load((ROOT / "scripts/run_dice/recipes" / name / recipe.train.config).read_text())
    assert file["stage"] == "dpo" and file["template"] == recipe.template
    assert file["cutoff_len"] == recipe.score.cutoff_len
    if file.get("deepspeed"):
        assert Path(ROOT / file["deepspeed"]) in DEEPSPEED
    if "save_steps" in file:
        assert file["save_steps"] % file["logging_steps"] == 0  # so that curves go on as they were


@pytest.mark.parametrize("name", ["qwen", "qwen-small"])
def test_a_start_fits_its_rounds(name):
    folder = ROOT / "scripts/run_dice/recipes" / name
    start, recipe = yaml.safe_load((folder / "start.yaml").read_text()), load_recipe(name)
    assert start["model_name_or_path"] == recipe.reference
    assert start["template"] == recipe.template and start["dataset"] == recipe.replay.dataset
    words = recipe.prepare.split()
    assert words[2:4] == [str((folder / "start.yaml").relative_to(ROOT)), recipe.policy]
    assert words[4:] in ([], [f"model_name_or_path={recipe.reference}"])
