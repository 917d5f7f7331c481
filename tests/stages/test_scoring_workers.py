"""Scoring by workers on two nodes, real models: the same bytes as by one."""

import subprocess
import sys

import numpy as np
import pytest

from dice.launch import devices, processes
from dice.recipe.paths import ROOT
from dice.rewards.scoring import score_round
from dice.run import files
from dice.run.rows import Prompt, Response, prompt_id
from dice.run.run import create_run

pytestmark = pytest.mark.slow


@pytest.fixture
def run(fake_run, random_model, other_random_model):
    """Six shards of two prompts with four responses each, to be scored by random models."""
    rng = np.random.default_rng(0)
    words = ["dog", "cat", "cow", "red", "blue"]
    prompts, folder = [], fake_run.round_dir(1)
    for shard in range(6):
        responses = []
        for number in range(2):
            messages = [{"role": "user", "content": f"Name {shard} or {number} animals."}]
            prompts.append(Prompt(prompt_id(messages), messages))
            for sample in range(4):
                text = ", ".join(rng.choice(words, rng.integers(2, 12)))
                responses.append(Response(prompts[-1].prompt_id, sample, text, len(text), 1, "stop", 0))
        files.write_rows(files.shard_path(folder / "responses", shard), responses)
    files.write_rows(folder / "prompts.jsonl", prompts)
    recipe = fake_run.recipe
    recipe.policy, recipe.reference = str(random_model), str(other_random_model)
    recipe.generate.engine = "hf"
    return create_run(recipe)


def take_scores(folder):
    """The scores' bytes by file name; they are removed."""
    scores = {path.name: path.read_bytes() for path in (folder / "scores").glob("*.jsonl")}
    for name in scores:
        (folder / "scores" / name).unlink()
    return scores


def test_two_nodes_of_workers_write_the_bytes_of_one(run, tmp_path):
    """Two groups of processes on this machine, as `torchrun --nnodes 2` starts them on two."""
    score_round(run, 1)
    alone = take_scores(run.round_dir(1))
    names = [f"{what}-{shard:05d}.jsonl" for what in ("dropped", "part") for shard in range(6)]
    assert sorted(alone) == names
    port = processes._free_port()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=1", "--nnodes=2",
        "--master_addr=127.0.0.1", f"--master_port={port}",
    ]  # fmt: skip
    work = [
        "-m",
        "dice.launch.worker",
        "dice.rewards.scoring",
        str(tmp_path / "progress"),
        str(run.path),
        "1",
    ]
    threads = {"OMP_NUM_THREADS": str(devices.cpu_count())}
    nodes = [
        subprocess.Popen(
            [*command, f"--node_rank={rank}", *work], cwd=ROOT, env={**processes.environment(), **threads}
        )
        for rank in range(2)
    ]
    assert [node.wait(timeout=300) for node in nodes] == [0, 0]
    assert take_scores(run.round_dir(1)) == alone
