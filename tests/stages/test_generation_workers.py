"""Generation by real engines in worker processes: one or two of them, killed or not, the same bytes."""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fake_world
import pytest
from commands import run_script

from dice.recipe.load import load_recipe
from dice.recipe.paths import ROOT
from dice.run import files
from dice.run.run import create_run

pytestmark = pytest.mark.slow
HAS_VLLM = importlib.util.find_spec("vllm") is not None


def generate(run, **env):
    return run_script(sys.executable, "-m", "dice", "generate", str(run.path), "1", **env)


def killed_in_the_middle(run, **env):
    """Starts the stage and kills it, workers included, as soon as a shard is written."""
    command = [sys.executable, "-m", "dice", "generate", str(run.path), "1"]
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "DICE_IN_LOOP": "1", **env}, stdout=subprocess.DEVNULL
    )
    folder = run.round_dir(1) / "responses"
    deadline = time.monotonic() + 200
    while not files.shards(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)  # workers die with their parent
    process.wait()
    return {path.name: path.stat().st_mtime_ns for path in files.shards(folder)}


@pytest.fixture
def make_run(tmp_path, random_model):
    """Runs of an engine in folders of their own: forty prompts, shards of four."""
    data = fake_world.make_data(tmp_path / "data")
    questions = [f"Tell me about {topic} in {n} words." for topic in fake_world.TOPICS for n in range(4)]
    rows = [{"instruction": question} for question in questions]
    (data / "prompts.json").write_text(json.dumps(rows))

    def make(name, engine):
        settings = [
            *fake_world.make_settings(data, tmp_path / name),
            f"policy={random_model}",
            f"reference={random_model}",
            f"generate.engine={engine}",
            "generate.shard_size=4",
            "generate.max_new_tokens=48",
            "generate.max_model_len=256",
        ]
        return create_run(load_recipe("tiny", settings))

    return make


def responses(run):
    return {path.name: path.read_bytes() for path in files.shards(run.round_dir(1) / "responses")}


@pytest.mark.parametrize(
    "engine",
    ["hf", pytest.param("vllm", marks=pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed"))],
)
def test_one_worker_two_and_a_kill_write_the_same_bytes(make_run, engine):
    """One worker undisturbed; two of them killed in the middle, and one that goes on."""
    whole = make_run("whole", engine)
    result = generate(whole)
    assert result.returncode == 0, result.stderr
    assert len(responses(whole)) == 10
    broken = make_run("broken", engine)
    before = killed_in_the_middle(broken, NPROC_PER_NODE="2")
    assert 0 < len(before) < 10
    result = generate(broken)
    assert result.returncode == 0, result.stderr
    assert responses(broken) == responses(whole)
    folder = broken.round_dir(1) / "responses"
    assert before == {name: (folder / name).stat().st_mtime_ns for name in before}  # nothing twice


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_an_engine_that_dies_ends_the_stage_with_its_log_and_keeps_its_shards(make_run, tell):
    """One worker of two is killed: status 1, the cause, and what was finished stays."""
    run = make_run("dies", "hf")
    command = [sys.executable, "-m", "dice", "generate", str(run.path), "1"]
    env = {**os.environ, "NPROC_PER_NODE": "2"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    folder = run.round_dir(1) / "responses"
    while not files.shards(folder) and process.poll() is None:
        time.sleep(0.01)
    kill_a_worker_of(run)
    begun = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    tell(f"generate (hf): from a worker's death to the exit {time.monotonic() - begun:.1f} s")
    assert process.returncode == 1
    assert "generate failed (status 1). The end of its log:" in stderr and "whole log: " in stderr
    kept = responses(run)
    assert 0 < len(kept) < 10 and not (run.round_dir(1) / "generate.manifest.json").exists()
    assert generate(run).returncode == 0
    assert responses(run).items() >= kept.items() and len(responses(run)) == 10


def kill_a_worker_of(run):
    """The first process that is a worker of this run, and not the torchrun that started it."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            words = path.read_text().split("\0")
            if (
                "dice.launch.worker" in words
                and str(run.path) in words
                and "dice.launch.torchrun" not in words
            ):
                os.kill(int(path.parent.name), signal.SIGKILL)
                return
