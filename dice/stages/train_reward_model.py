"""A scalar reward model of the recipe's offline pairs, by LLaMA-Factory's `stage: rm`: the paper's baseline.

It is trained once per run, before round 1, where `score.reward` is `reward_model` and
`score.reward_model` is `train`. It begins with the run's reference (the SFT model), since a reward model
takes the place of DPO: both make one thing of the same model and the same pairs.
"""

import json
from pathlib import Path
from typing import Any

from dice.data import dataset_info
from dice.data.dataset_dir import write
from dice.data.prompts_and_preferences import read_preferences
from dice.errors import counted
from dice.inference.load import load_trainer
from dice.models import trainer
from dice.recipe.keys import Recipe
from dice.recipe.seeds import seed_of
from dice.run import files
from dice.run.digests import model_digest
from dice.run.run import Run, model_path
from dice.run.stage import Outcome, Stage
from dice.stages.train import base_config

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
    seed = seed_of(recipe.seed, 0, "train_rm")
    return base_config(recipe, training_args(recipe), start, run.reward_model_dir, seed, "reward-model")


def _inputs(run: Run, t: int) -> dict[str, str]:
    recipe = run.recipe
    return {
        "offline pairs": dataset_info.digest(recipe.dataset_dir, recipe.replay.dataset),
        "reference": model_digest(model_path(recipe.reference)),
    }


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    own = {"seed": recipe.seed, **recipe.encoding_settings(), "cutoff_len": recipe.score.cutoff_len}
    return {**own, "batch": recipe.train.global_batch_size, "args": training_args(recipe)}


def _log(run: Run) -> Path:
    return run.reward_model_dir / "logs" / "train_rm.log"


def _run(run: Run, t: int) -> Outcome:
    recipe, folder = run.recipe, run.reward_model_dir
    pairs, dropped = read_preferences(recipe.dataset_dir, recipe.replay.dataset)
    work = folder / "train"
    write(folder / "dataset", [], pairs)
    engine = load_trainer(recipe.generate.engine)
    trained = engine.finished(work)  # killed after its last step, perhaps
    if not trained:
        files.remove(work)
        trained = engine.train(config_of(run), _log(run), "train_rm")
    files.write_text(folder / "curves.jsonl", (json.dumps(entry) + "\n" for entry in trained.curves))
    trainer.collect(work, folder / "model", keep=True)
    losses = [entry["loss"] for entry in trained.curves if "loss" in entry]
    return Outcome(
        rows_in=len(pairs) + dropped.total(),
        rows_out=trained.train_rows,
        summary=f"reward model of {counted(trained.train_rows, 'pair')}"
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
    folder=lambda run, t: run.reward_model_dir,
    working=("train",),
    given=lambda run, t: {"offline pairs": "replay.dataset", "reference": "reference"},
    launches=lambda run, t: [trainer.launch(run.reward_model_dir / "train", _log(run), "train_rm")],
)
