"""LLaMA-Factory's trainer, run as a subprocess: torchrun with `llama-factory/src/train.py`.

Training happens in a working folder; `collect` makes a model folder out of it once it is complete, so
a model folder that exists is a finished one.

The trainer writes its own checkpoints, to resume from, file by file and from every process. One is complete
once `complete.json` stands in it, written last, with the size of every file; older ones are removed only
then. `last_complete` says which one a training that was killed resumes from.
"""

import json
import math
import os
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from dice.errors import BadInput, StageFailed
from dice.launch import devices
from dice.launch.processes import Launch
from dice.models.checkpoint import base_of
from dice.recipe.paths import ROOT
from dice.run import files
from dice.run.manifests import SPEEDS

COMPLETE = "complete.json"
TRAIN_SCRIPT = ROOT / "llama-factory" / "src" / "train.py"

# What makes a checkpoint. Everything else in the trainer's folder (states, cards, logs) stays behind.
MODEL_FILES = (
    "config.json", "generation_config.json", "adapter_config.json",
    "model*.safetensors", "adapter_model*.safetensors", "model.safetensors.index.json",
    "value_head.safetensors",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "chat_template*", "*.py",  # the code of a model that comes with its own
)  # fmt: skip

# What a machine without a GPU can't do and LLaMA-Factory refuses to try; some CPUs have bfloat16.
WITHOUT_GPU = {"bf16": False, "fp16": False, "deepspeed": None, "flash_attn": "auto"}


@dataclass(frozen=True)
class Trained:
    """What a finished training run tells about itself."""

    train_rows: int
    eval_rows: int
    curves: list[dict[str, float]]  # by logging step: step, loss, rewards/accuracies, ... and eval_loss, ...
    reference: dict[str, int] = field(default_factory=dict)  # log-probs of it: known, computed
    # Medians over the log: tokens_per_second of chosen and rejected rows, in all processes; on GPUs that are
    # known, share_of_matrix_rate too.
    speed: dict[str, float] = field(default_factory=dict)


def batch_sizes(global_batch: int, per_device: int, processes: int) -> tuple[int, int]:
    """Per-device batch and accumulation steps whose product with `processes` is the global batch.

    `per_device` is the most that fits on a device; the largest even divisor up to it is taken.
    Raises BadInput where the global batch can't be split over the processes.
    """
    if global_batch % processes:
        fitting = [n for n in range(1, global_batch + 1) if global_batch % n == 0]
        raise BadInput(
            f"train.global_batch_size is {global_batch}, which {processes} processes can't share evenly; "
            f"use {', '.join(map(str, fitting))} GPUs, or another train.global_batch_size"
        )
    share = global_batch // processes
    size = max(n for n in range(1, min(per_device, share) + 1) if share % n == 0)
    return size, share // size


def adapt(config: dict[str, Any], global_batch: int, processes: int, on_gpu: bool) -> dict[str, Any]:
    """A LLaMA-Factory configuration fitted to the machine: batch sizes, and what needs a GPU."""
    config = on_device(config, on_gpu)
    if isinstance(config.get("deepspeed"), str):
        config["deepspeed"] = str(ROOT / config["deepspeed"])
    per_device = config.get("per_device_train_batch_size", 1)
    size, steps = batch_sizes(global_batch, per_device, processes)
    return config | {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}


def on_device(config: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """A LLaMA-Factory configuration without what needs a GPU where there is none."""
    if on_gpu:
        return dict(config)
    in_bfloat16 = config.get("bf16") and devices.cpu_has_bfloat16()
    without = {key: value for key, value in WITHOUT_GPU.items() if key in config}
    return config | without | ({"bf16": True, "use_cpu": True} if in_bfloat16 else {})


def precision(config: dict[str, Any]) -> dict[str, bool]:
    """How training with a configuration for this device computes, as options of `loading.Options`.

    DeepSpeed has no autocast. The base of an adapter that is trained stays in its checkpoint's precision.
    """
    autocast = bool(config.get("bf16")) and not (config.get("pure_bf16") or config.get("deepspeed"))
    return {"autocast": autocast, "float32_weights": autocast and config.get("finetuning_type") == "full"}


def dtype_of(fitted: dict[str, Any]) -> str:
    """What a configuration that is fitted to the machine computes in; its weights may be more precise."""
    if fitted.get("bf16") or fitted.get("pure_bf16"):
        return "bfloat16"
    return "float16" if fitted.get("fp16") else "float32"


def starting_from(model: str) -> dict[str, Any]:
    """The keys of a configuration that say which model is trained: an adapter is trained on, on its base."""
    if base := base_of(model):
        return {"model_name_or_path": base, "adapter_name_or_path": model}
    return {"model_name_or_path": model}


def launch(work: Path, log: Path, label: str) -> Launch:
    """The training in the folder `work`, of the configuration that `train` saves: the same on all nodes."""
    return Launch(
        part="training",
        label=label,
        log=log,
        arguments=[str(TRAIN_SCRIPT), str(log.with_suffix(".yaml"))],
        workers=devices.workers_per_node(),
        unit="steps",
        poll=partial(_progress, work),
        env=_environment(work, log),
    )


def train(config: dict[str, Any], log: Path, label: str) -> Trained:
    """Train in `config["output_dir"]`, with the configuration saved beside the log.

    Raises StageFailed with the end of the log where training fails, BadInput where it was refused.
    """
    work = Path(config["output_dir"])
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    files.write_text(log.with_suffix(".yaml"), text)
    launch(work, log, label).run_on_all_nodes()
    if trained := finished(work):
        return trained
    raise StageFailed(f"{label} ended, but its result is not whole in {work}\n  whole log: {log}")


def finished(work: Path) -> Trained | None:
    """What a training in `work` came to; None where it has not ended: the trainer's state is saved last.

    Raises StageFailed for one whose loss is no number any more.
    """
    rows, state = (files.read_json(work / name) for name in ("rows.json", "trainer_state.json"))
    if rows is None or state is None or not any(work.glob("*.safetensors")):
        return None
    curves = [entry for entry in state.get("log_history", []) if "loss" in entry or "eval_loss" in entry]
    for entry in curves:
        if not all(math.isfinite(entry[name]) for name in ("loss", "eval_loss") if name in entry):
            raise StageFailed(
                f"the training in {work} diverged: at step {entry.get('step')} its loss is no number; a "
                "lower train.learning_rate may help"
            )
    reference = files.read_json(work / "reference.json") or {}
    found = {name: [entry.pop(name) for entry in curves if name in entry] for name in SPEEDS}
    speed = {name: statistics.median(values) for name, values in found.items() if values}
    return Trained(rows["train"], rows["eval"], curves, reference, speed)


def _environment(work: Path, log: Path) -> dict[str, str]:
    """What training gets besides this process's environment; a user's own choice of loggers' places wins."""
    loggers = {
        "TENSORBOARD_LOGGING_DIR": str(log.parent / "tensorboard"),
        "WANDB_DIR": str(log.parent),
        "WANDB_PROJECT": "dice",
    }
    own = {
        "HF_DATASETS_CACHE": str(work / "datasets-cache"),
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONHASHSEED": "0",  # peft writes sets into an adapter's configuration
    }
    return own | {name: os.environ.get(name, value) for name, value in loggers.items()}


def model_files(folder: Path) -> list[Path]:
    """The files of a folder that make a checkpoint, sorted."""
    return sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})


def collect(work: Path, model: Path, keep: bool = False) -> None:
    """Put the checkpoint's own files into `model`, safe on the disk before it has its name.

    The working folder goes, unless it is to `keep`: to be gone on with until a stage is done.
    """
    partial = model.with_name(f".{model.name}.partial")
    files.remove(partial)
    partial.mkdir(parents=True)
    for path in model_files(work):
        files.link(path, partial / path.name)
        files.open_to_readers(partial / path.name)
        files.flush(partial / path.name)
    files.flush(partial)
    files.remove(model)
    partial.replace(model)
    files.flush(model.parent)
    if not keep:
        files.remove(work)


def _progress(work: Path) -> tuple[int, int]:
    """(steps done, steps in all), from the log that LLaMA-Factory keeps."""
    try:
        entry = json.loads((work / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    except (FileNotFoundError, IndexError, json.JSONDecodeError):  # not begun, or being written
        return 0, 0
    return entry["current_steps"], entry["total_steps"]


def mark_complete(checkpoint: Path, policy: str, processes: int) -> None:
    """Mark a checkpoint as complete. `policy` identifies what the training began with."""
    facts = {"policy": policy, "processes": processes, "files": _sizes(checkpoint)}
    files.write_json(checkpoint / COMPLETE, facts)


def remove_earlier(checkpoint: Path) -> None:
    """Remove the checkpoints of earlier steps."""
    for other in checkpoint.parent.glob("checkpoint-*"):
        if 0 <= _step(other) < _step(checkpoint):
            files.remove(other)


def check_processes(work: Path, processes: int) -> None:
    """Raises BadInput where the last complete checkpoint is of another number of processes."""
    found = _complete(work)
    its = checkpoint_facts(found[-1]).get("processes") if found else processes
    if its != processes:
        raise BadInput(
            f"{found[-1]} is of a training with {its} processes (GPUs), here are {processes}: go on with "
            f"{its}, or remove {work} to begin the training anew"
        )


def last_complete(work: Path) -> Path | None:
    """The last complete checkpoint of a working folder; everything else in the folder is removed."""
    found = next(reversed(_complete(work)), None)
    for path in list(work.iterdir()) if work.is_dir() else []:
        if path != found:
            files.remove(path)
    return found


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint has every file that it had when it was marked, whole."""
    expected = checkpoint_facts(checkpoint).get("files")
    return bool(expected) and isinstance(expected, dict) and expected.items() <= _sizes(checkpoint).items()


def checkpoint_facts(checkpoint: Path) -> dict[str, Any]:
    """What `mark_complete` wrote of a checkpoint: policy, processes, files. Empty where it did not."""
    return files.read_json(checkpoint / COMPLETE) or {}


def _complete(work: Path) -> list[Path]:
    return [path for path in sorted(work.glob("checkpoint-[0-9]*"), key=_step) if is_complete(path)]


def _sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of every file below a checkpoint, by its path there."""
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != COMPLETE)
    return {str(path.relative_to(checkpoint)): path.stat().st_size for path in paths}


def _step(checkpoint: Path) -> int:
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdigit() else -1
