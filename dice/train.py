"""Stage 2: DPO on the round's mixture, by LLaMA-Factory.

The trainer's configuration is the recipe's LLaMA-Factory file with the round's model, data and
paths. The reference of the training is the policy that the round starts from.
"""

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from dice import launch, store, trainer
from dice.generate import seed_of
from dice.stage import Outcome, Stage, manifest_of, require
from dice.store import Run


def round_config(run: Run, t: int) -> dict[str, Any]:
    """The LLaMA-Factory configuration of round t on this machine."""
    recipe, folder = run.recipe, run.round_dir(t)
    processes = launch.workers_per_node() * launch.node_count()
    on_gpu = launch.gpu_count() > 0 or os.environ.get("DS_ACCELERATOR") == "cpu"
    fitted = trainer.adapt(recipe.train.args, recipe.train.global_batch_size, processes, on_gpu)
    return fitted | {
        "do_train": True,
        "model_name_or_path": run.policy(t),
        "ref_model": run.policy(t),
        "template": recipe.template,
        "cutoff_len": recipe.score.cutoff_len,
        "dataset": "mixed",
        "dataset_dir": str(folder / "dataset"),
        "output_dir": str(folder / "train"),
        "seed": seed_of(recipe.seed, t, "train") % (1 << 31),
        "report_to": recipe.train.args.get("report_to", "none"),
    }


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder = run.round_dir(t)
    require(run, t, "pair")
    return {
        "mixed.json": store.file_digest(folder / "dataset" / "mixed.json"),
        "policy": store.model_digest(run.policy(t)),
    }


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    own = {"seed": recipe.seed, "template": recipe.template, "cutoff_len": recipe.score.cutoff_len}
    return {**own, "train": asdict(recipe.train)}


def _run(run: Run, t: int) -> Outcome:
    folder = run.round_dir(t)
    rows = manifest_of(run, t, "pair")["rows_out"]
    if run.recipe.generate.engine == "fake":
        trained = _train_fake(run, t, rows)
    else:
        trained = trainer.train(round_config(run, t), folder / "logs" / "train.log", "train")
    store.write_text(folder / "curves.jsonl", (json.dumps(entry) + "\n" for entry in trained.curves))
    trainer.collect(folder / "train", folder / "model")

    used = trained.train_rows + trained.eval_rows
    how = ""
    if trained.curves:  # empty where there were fewer steps than logging_steps
        last = trained.curves[-1]
        how = f", loss {last['loss']:.3f}, accuracy {last['rewards/accuracies']:.0%} at the end"
    return Outcome(
        rows_in=rows,
        rows_out=used,
        summary=f"{trained.train_rows:,} pairs{how}",
        dropped={f"pairs over {run.recipe.score.cutoff_len:,} tokens": rows - used},
        figures={"train_rows": trained.train_rows, "eval_rows": trained.eval_rows},
    )


def _train_fake(run: Run, t: int, rows: int) -> trainer.Trained:
    folder = run.round_dir(t)
    store.remove(folder / "train")
    command = [sys.executable, "-m", "dice.engines.fake", str(folder / "dataset" / "mixed.json")]
    command += [run.policy(t), str(folder / "train")]
    launch.run_logged(command, folder / "logs" / "train.log", "train", "steps", lambda: (0, 0))
    return trainer.Trained(rows, 0, [])


STAGE = Stage("train", _inputs, _settings, ("model", "curves.jsonl"), _run)
