"""Stage 2: DPO on the round's mixture, by LLaMA-Factory.

The trainer's configuration is the recipe's LLaMA-Factory file with the round's model, data and
paths. The reference of the training is the policy that the round starts from; scoring has computed
its log-probs of the generated pairs already (`dice/models/reference_table.py`). A training that was
interrupted goes on from its last checkpoint.
"""

import json
import os
from pathlib import Path
from typing import Any

from dice.data.dataset_dir import SAMPLED_IDS, SMOOTHING
from dice.errors import BadInput, counted
from dice.inference.load import engine_named, load_chat, load_trainer
from dice.launch import devices
from dice.launch.console import say
from dice.models import reference_table, trainer
from dice.recipe.keys import AUTO, Recipe
from dice.recipe.seeds import seed_of
from dice.run import files
from dice.run.digests import file_digest, model_digest
from dice.run.run import Run
from dice.run.stage import Outcome, Stage, makers
from dice.stages import pair

WITHOUT_REFERENCE = ("orpo", "simpo")  # values of pref_loss


def base_config(
    recipe: Recipe, args: dict[str, Any], model: str, folder: Path, seed: int, name: str
) -> dict[str, Any]:
    """The LLaMA-Factory configuration on this machine of any training of a run.

    `args` are the training file's, of which null is as if it were not given; `model` is what the training
    begins with, `folder` has the data set.
    """
    given = {name: value for name, value in args.items() if value is not None}
    return fitted(recipe, given) | {
        "do_train": True,
        **load_trainer(recipe.generate.engine).starting_from(model),
        "data_shared_file_system": devices.node_count() > 1,
        "trust_remote_code": recipe.trust_remote_code,
        **recipe.encoding,
        "template": _template(recipe, model),
        "cutoff_len": recipe.score.cutoff_len,
        "dataset": "mixed",
        "dataset_dir": str(folder / "dataset"),
        "output_dir": str(folder / "train"),
        "seed": seed % (1 << 31),
        "report_to": _loggers(recipe),
        "run_name": f"{recipe.run}-{name}",
        "trackio_space_id": args.get("trackio_space_id"),  # without a word it would be a public one
    }


def _loggers(recipe: Recipe) -> str | list[str]:
    """The loggers of the training file, but for those that get the whole run: each has one run of it."""
    asked = recipe.train.args.get("report_to") or "none"
    if isinstance(asked, str):
        return "none" if asked in recipe.report_to else asked
    return [name for name in asked if name not in recipe.report_to] or "none"


def fitted(recipe: Recipe, args: dict[str, Any]) -> dict[str, Any]:
    """A training file's arguments, fitted to this machine."""
    on_gpu = devices.gpu_count() > 0 or os.environ.get("DS_ACCELERATOR") == "cpu"
    return trainer.adapt(args, recipe.train.global_batch_size, devices.process_count(), on_gpu)


def _template(recipe: Recipe, model: str) -> str:
    """The template's name, which LLaMA-Factory wants to know."""
    if recipe.template != AUTO:
        return recipe.template
    return load_chat(recipe.generate.engine, model, recipe.encoding).name


def round_config(run: Run, t: int) -> dict[str, Any]:
    """The LLaMA-Factory configuration of round t on this machine."""
    recipe, policy, seed = run.recipe, run.policy(t), seed_of(run.recipe.seed, t, "train")
    config = base_config(recipe, recipe.train.args, policy, run.round_dir(t), seed, f"round-{t}")
    return config | {
        **_reference(config, recipe),
        "policy_id": model_digest(policy),
        "sampled_ids": None,
        **{path.stem: str(path) for path in _side_files(run, t)},
        **({} if recipe.train.loss == "dpo" else {"loss": recipe.train.loss}),
        "pack_tokens": recipe.train.pack_tokens,
        "only_last_checkpoint": True,
        "logging_nan_inf_filter": False,  # a loss that is no number is to be seen
    }


def _side_files(run: Run, t: int) -> list[Path]:
    """What the trainer knows of pairs besides their texts; rounds of earlier versions have no such files."""
    folder = run.round_dir(t) / "dataset"
    return [path for name in (SAMPLED_IDS, SMOOTHING) if (path := folder / name).is_file()]


def _reference(config: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Which model is the reference: always the policy as the round finds it, which `config` names.

    LLaMA-Factory's own reference for an adapter is its bare base, right only while the adapter is new.
    """
    if recipe.train.reference_logps == "table":
        return {"reference_logps": "table"}
    keys: dict[str, Any] = {"reference_logps": "model"}
    adapter = config.get("adapter_name_or_path")
    if adapter:
        bits = recipe.train.args.get("quantization_bit")
        keys |= {"ref_model_adapters": adapter, "ref_model_quantization_bit": bits}
    if adapter or recipe.train.args["finetuning_type"] != "lora":
        keys["ref_model"] = config["model_name_or_path"]
    return keys


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder = run.round_dir(t)
    return {
        "mixed.json": file_digest(folder / "dataset" / "mixed.json"),
        "policy": model_digest(run.policy(t)),
        **{path.name: file_digest(path) for path in _side_files(run, t)},
    }


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe.in_round(t)
    own = {"seed": recipe.seed, **recipe.encoding_settings(), "cutoff_len": recipe.score.cutoff_len}
    return {**own, "train": recipe.train.settings()}


def _log(run: Run, t: int) -> Path:
    return run.round_dir(t) / "logs" / "train.log"


def _run(run: Run, t: int) -> Outcome:
    folder, recipe = run.round_dir(t), run.recipe
    rows = pair.STAGE.manifest(run, t).rows_out
    if engine_named(recipe.generate.engine).reads_models:  # otherwise there are no batches to fill
        check_rows(rows, recipe)
    engine = load_trainer(recipe.generate.engine)
    trained = engine.finished(folder / "train")  # killed after its last step, perhaps
    trained = trained or engine.train(_begin(run, t), _log(run, t), "train")
    files.write_text(folder / "curves.jsonl", (json.dumps(entry) + "\n" for entry in trained.curves))
    trainer.collect(folder / "train", folder / "model", keep=True)
    return _outcome(rows, trained, recipe, _expected(run, t))


def check_rows(rows: int, recipe: Recipe) -> None:
    """Raises BadInput where a round's pairs can't fill a batch, are fewer than what validation takes, or more
    than max_samples, which would cut off replayed ones.
    """
    most = recipe.train.args.get("max_samples")
    if most and most < rows and 0 < recipe.replay.gamma < 1:
        told = f"train.max_samples is {most:,}, and the round may have {counted(rows, 'pair')}"
        raise BadInput(f"{told}: of the last rows, which are replayed pairs, some would be left out")
    batch, validation = recipe.train.global_batch_size, recipe.train.args.get("val_size") or 0
    held = int(validation * rows) if validation < 1 else int(validation)
    if held >= rows:
        raise BadInput(f"train.val_size is {validation:g}, but the round has only {counted(rows, 'pair')}")
    if rows - held < batch:
        raise BadInput(
            f"train.global_batch_size is {batch}, but only {rows - held:,} pairs are left to train on"
            f"{f' after {held:,} for validation' if held else ''}: more prompts, or a smaller batch"
        )


def _begin(run: Run, t: int) -> dict[str, Any]:
    """The configuration to train with: from the last checkpoint, or from the start."""
    work, config = run.round_dir(t) / "train", round_config(run, t)
    if config.get("deepspeed"):
        trainer.check_processes(work, devices.process_count())
    if checkpoint := trainer.last_complete(work):
        say(f"train     goes on from step {checkpoint.name.rpartition('-')[2]}", mark="=")
        return config | {"resume_from_checkpoint": str(checkpoint)}
    if known := _known_reference(run, t):
        known.save(work / "reference.safetensors")
        config["reference_table"] = str(work / "reference.safetensors")
    return config


def _known_reference(run: Run, t: int) -> reference_table.ReferenceTable | None:
    """What scoring knows of the reference; None where that is nothing, or of weights in other bits."""
    folder = run.round_dir(t)
    if not _scores_are_of_use(run.recipe):
        return None
    return reference_table.from_scores(folder / "pairs.jsonl", files.shards(folder / "scores"))


def _expected(run: Run, t: int) -> int:
    """Responses of the round's mixture, at least, whose reference log-probs scoring knows."""
    if not _scores_are_of_use(run.recipe) or run.recipe.train.args.get("max_samples"):
        return 0
    return 2 * pair.STAGE.manifest(run, t).figures["generated"]


def _scores_are_of_use(recipe: Recipe) -> bool:
    """Whether scoring knows log-probs of the reference: of the same weights, and precisely enough."""
    args = recipe.train.args
    if recipe.score.reward != "implicit":
        return False
    if recipe.train.reference_logps != "table" or recipe.replay.gamma == 1:
        return False
    if args.get("pref_loss") in WITHOUT_REFERENCE:
        return False
    defaults = {"quantization_method": "bnb", "quantization_type": "nf4", "double_quantization": True}
    plain_bits = all(args.get(key, value) == value for key, value in defaults.items())
    same_weights = recipe.score.quantization_bit == args.get("quantization_bit") and plain_bits
    is_single = devices.dtype_name(recipe.dtype) == "float32"
    return same_weights and (is_single or trainer.dtype_of(fitted(recipe, args)) != "float32")


def _outcome(rows: int, trained: trainer.Trained, recipe: Recipe, expected: int) -> Outcome:
    used = trained.train_rows + trained.eval_rows
    steps = [entry for entry in trained.curves if "loss" in entry]
    how = ""
    if steps:  # none where there were fewer steps than logging_steps
        how = f", loss {steps[-1]['loss']:.3f}, accuracy {steps[-1]['rewards/accuracies']:.0%} at the end"
    notes, warnings, speed = [], [], trained.speed
    if found := trained.reference:
        notes += [f"reference log-probs: {found['known']:,} from scoring, {found['computed']:,} computed"]
        if found["known"] < expected:
            warnings = [
                f"scoring encodes {expected - found['known']:,} of {expected:,} generated responses "
                "otherwise than training; `python -m dice doctor` tells more"
            ]
    if speed:
        share = speed.get("share_of_matrix_rate")
        told = f", {share:.0%} of the GPUs' matrix rate" if share else ""
        notes += [f"{speed['tokens_per_second']:,.0f} tokens/s{told}"]
    reads_models = engine_named(recipe.generate.engine).reads_models
    return Outcome(
        rows_in=rows,
        rows_out=used,
        summary=f"{counted(trained.train_rows, 'pair')}{how}",
        dropped={f"pairs over {recipe.score.cutoff_len:,} tokens": rows - used},
        figures={
            **({"dtype": trainer.dtype_of(fitted(recipe, recipe.train.args))} if reads_models else {}),
            "train_rows": trained.train_rows,
            "eval_rows": trained.eval_rows,
            **({"reference_logps": found} if found else {}),
            **speed,
        },
        notes=notes,
        warnings=warnings,
    )


STAGE = Stage(
    "train",
    _inputs,
    _settings,
    outputs=("model", "curves.jsonl"),
    run=_run,
    working=("train",),
    needs=lambda run, t: [("pair", t), ("score", t), *makers(t - 1)],
    given=Run.given,
    parts=("train/checkpoint-*/complete.json", "model/*.safetensors"),
    launches=lambda run, t: [trainer.launch(run.round_dir(t) / "train", _log(run, t), "train")],
)
