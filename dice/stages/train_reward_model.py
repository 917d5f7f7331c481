"""A scalar reward model of the recipe's offline pairs, by LLaMA-Factory's `stage: rm`: the paper's baseline.

It is trained once per run, before round 1, where `score.reward` is `reward_model` and
`score.reward_model` is `train`. It begins with the run's reference (the SFT model), since a reward model
takes the place of DPO: both make one thing of the same model and the same pairs.
"""

import json
import os
from pathlib import Path
from typing import Any

from dice.data import dataset_info
from dice.data.dataset_dir import write
from dice.data.prompts_and_preferences import read_preferences
from dice.launch import devices
from dice.models import trainer
from dice.models.checkpoint import base_of
from dice.recipe.keys import Recipe
from dice.recipe.seeds import seed_of
from dice.run import files
from dice.run.digests import file_digest, model_digest
from dice.run.run import Run, model_path
from dice.run.stage import Outcome, Stage

# What of the recipe's training file is about DPO or about the length of its training.
DPO_ONLY = (
    "pref_", "dpo_", "simpo_", "kto_", "ld_", "bco_", "max_steps", "num_train_epochs", "learning_rate",
    "val_size", "eval_", "save_",
)  # fmt: skip
# LLaMA-Factory's own way of checkpointing activations fails with a value head under torchrun.
USUAL = {"num_train_epochs": 1, "save_strategy": "no", "use_reentrant_gc": False}
RATES = {"lora": 1e-4}  # of an adapter; whole models:
RATE = 2e-6


def is_wanted(recipe: Recipe) -> bool:
    """Whether a run of the recipe trains a reward model."""
    return recipe.score.reward == "reward_model" and recipe.score.reward_model == "train"


def model_of(run: Run) -> str:
    """The reward model of a run: the one that it trains, a folder, or a Hub id."""
    name = run.recipe.score.reward_model
    return str(folder_of(run, 0) / "model") if name == "train" else model_path(name)


def folder_of(run: Run, t: int) -> Path:
    """Where a run's own reward model is made."""
    return run.stage_dir("train_rm", t)


def maker(recipe: Recipe) -> list[tuple[str, int]]:
    """The stage that makes a run's own reward model, where it has one."""
    return [("train_rm", 0)] if is_wanted(recipe) else []


def training_args(recipe: Recipe) -> dict[str, Any]:
    """LLaMA-Factory's arguments: those of the rounds as far as they fit, then `score.reward_args`."""
    args = {key: value for key, value in recipe.train.args.items() if not key.startswith(DPO_ONLY)}
    rate = {"learning_rate": RATES.get(recipe.train.args.get("finetuning_type"), RATE)}
    return args | USUAL | rate | recipe.score.reward_args | {"stage": "rm"}


def config_of(run: Run) -> dict[str, Any]:
    """The whole configuration on this machine."""
    recipe, start = run.recipe, model_path(run.recipe.reference)
    on_gpu = devices.gpu_count() > 0 or os.environ.get("DS_ACCELERATOR") == "cpu"
    fitted = trainer.adapt(
        training_args(recipe), recipe.train.global_batch_size, devices.process_count(), on_gpu
    )
    base = base_of(start)
    models = {"model_name_or_path": base or start} | ({"adapter_name_or_path": start} if base else {})
    return fitted | {
        "do_train": True,
        **models,
        "data_shared_file_system": devices.node_count() > 1,
        "trust_remote_code": recipe.trust_remote_code,
        "template": recipe.template,
        "cutoff_len": recipe.score.cutoff_len,
        "dataset": "mixed",
        "dataset_dir": str(folder_of(run, 0) / "dataset"),
        "output_dir": str(folder_of(run, 0) / "train"),
        "seed": seed_of(recipe.seed, 0, "train_rm") % (1 << 31),
        "report_to": recipe.train.args.get("report_to", "none"),
        "run_name": f"{recipe.run}-reward-model",
    }


def _inputs(run: Run, t: int) -> dict[str, str]:
    recipe = run.recipe
    return {
        "offline pairs": dataset_info.digest(recipe.dataset_dir, recipe.replay.dataset),
        "reference": model_digest(model_path(recipe.reference)),
    }


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    own = {"seed": recipe.seed, "template": recipe.template, "cutoff_len": recipe.score.cutoff_len}
    return {**own, "batch": recipe.train.global_batch_size, "args": training_args(recipe)}


def _run(run: Run, t: int) -> Outcome:
    recipe, folder = run.recipe, folder_of(run, t)
    pairs, dropped = read_preferences(recipe.dataset_dir, recipe.replay.dataset)
    work = folder / "train"
    write(folder / "dataset", [], pairs)
    if recipe.generate.engine == "fake":
        files.write_json(work / "config.json", {"digest": file_digest(folder / "dataset" / "mixed.json")})
        trained = trainer.Trained(len(pairs), 0, [])
    else:
        trained = trainer.finished(work)  # killed after its last step, perhaps
        if not trained:
            files.remove(work)
            trained = trainer.train(config_of(run), trainer.launch(folder, "train_rm"))
    files.write_text(folder / "curves.jsonl", (json.dumps(entry) + "\n" for entry in trained.curves))
    trainer.collect(work, folder / "model", keep=True)
    losses = [entry["loss"] for entry in trained.curves if "loss" in entry]
    return Outcome(
        rows_in=len(pairs) + dropped.total(),
        rows_out=trained.train_rows,
        summary=f"reward model of {trained.train_rows:,} pairs"
        + (f", loss {losses[-1]:.3f}" if losses else ""),
        dropped={
            **dropped,
            f"pairs over {recipe.score.cutoff_len:,} tokens": len(pairs) - trained.train_rows,
        },
    )


STAGE = Stage(
    "train_rm",
    _inputs,
    _settings,
    outputs=("model", "dataset", "curves.jsonl"),
    run=_run,
    folder=folder_of,
    working=("train",),
    launches=lambda run, t: [trainer.launch(folder_of(run, t), "train_rm")],
)
