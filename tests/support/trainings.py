"""A LLaMA-Factory training file, and trainings of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from commands import run_script
from safetensors.torch import load_file

from dice.launch import devices, processes
from dice.recipe.paths import ROOT

TRAIN = ROOT / "llama-factory" / "src" / "train.py"
MANY = Path(__file__).with_name("train_many.py")


DEEPSPEED = ROOT / "llama-factory" / "examples" / "deepspeed"


PATH = os.pathsep.join([str(ROOT), str(TRAIN.parent), os.environ.get("PYTHONPATH", "")])


def config(data, output, policy, **changes):
    """A training file for 30 steps of 8 pairs."""
    return {
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": str(policy),
        "template": "llama3-custom",
        "dataset": "pairs",
        "dataset_dir": str(data),
        "output_dir": str(output),
        "cutoff_len": 512,
        "val_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 10,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "max_steps": 30,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 1,
        **changes,
    }


def weights(output):
    (path,) = output.glob("*model.safetensors")
    return load_file(path)


def torchrun(configs, workers, **env):
    """Trainings one after the other, in the same processes under torchrun: their start takes longest.

    Returns what they printed.
    """
    path = Path(configs[-1]["output_dir"] + ".yaml")
    path.write_text(yaml.safe_dump(configs))
    command = processes.torchrun([str(MANY), str(path)], devices.workers_per_node())
    command[3] = f"--nproc_per_node={workers}"
    result = run_script(*command, PYTHONPATH=PATH, OMP_NUM_THREADS="1", **env)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def kill_at_a_checkpoint(run: Path) -> None:
    """Train round 1 of a run, and kill it as soon as it has a whole checkpoint."""
    command = [sys.executable, "-m", "dice", "train", str(run), "1"]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    while not list((run / "round-1" / "train").glob("checkpoint-*/complete.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
