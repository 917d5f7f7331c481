"""Several machines on one run, as groups of processes on this one: the same iter.sh on each."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import strangers
from commands import run_script
from machines_here import Node, free_port, nodes_on

from dice.run import files

ITER = "scripts/run_dice/iter.sh"


def wait_for(path: Path, nodes: list[Node]) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert time.monotonic() < deadline and all(node.process.poll() is None for node in nodes), [
            node.text(name) for node in nodes for name in ("out", "err")
        ]
        time.sleep(0.02)


def ended(node: Node, begun: float, seconds: float = 60) -> float:
    """Seconds from `begun` until a node has exited with status 1."""
    assert node.process.wait(seconds) == 1, node.text("err")
    return time.monotonic() - begun


@pytest.mark.slow
def test_three_nodes_write_what_one_does_with_strangers_at_their_port(fake_settings, tmp_path, tell):
    """Every kind of stranger comes again and again meanwhile: the run ends well, and shows none of it.

    With the fake engine, whose every stage but `train` is the same on any number of workers.
    """
    port = free_port()
    command = [sys.executable, strangers.__file__, str(port + 1)]
    settings = ["tiny", *fake_settings, "rounds=1", "train.global_batch_size=30"]  # which three can share
    alone = run_script("bash", ITER, *settings, f"results_dir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    with (
        (tmp_path / "visits").open("w") as visits,
        subprocess.Popen(command, stdout=visits, stderr=subprocess.DEVNULL) as talking,
    ):
        try:
            with nodes_on(tmp_path / "logs", settings, 3, port) as nodes:
                for node in nodes:
                    assert node.process.wait(300) == 0, node.text("err")
        finally:
            talking.kill()
    came = Counter((tmp_path / "visits").read_text().splitlines())
    assert came.keys() == set(strangers.KINDS)
    for node in nodes:
        assert node.text("err") == ""
        assert all(line.isprintable() for line in node.text("out").splitlines())
        assert "win rate against DPO" in node.text("out")
    assert "✓ generate" in nodes[0].text("out") and "(node 2)" in nodes[2].text("out")
    one, three = (tmp_path / name / "tiny" / "round-1" for name in ("alone", "results"))
    for name in ("responses", "scores"):
        for path in files.shards(one / name):
            assert (three / name / path.name).read_bytes() == path.read_bytes()
    assert (three / "pairs.jsonl").read_bytes() == (one / "pairs.jsonl").read_bytes()
    told = ", ".join(f"{name} {count}" for name, count in came.items())
    tell(f"three nodes, strangers that came while they were at work: {told}")


@pytest.mark.slow
def test_nodes_that_were_not_started_alike(fake_settings, tmp_path):
    port = free_port()
    first = Node(0, port, tmp_path / "logs", ["tiny", *fake_settings])
    second = Node(1, port, tmp_path / "logs", ["tiny", *fake_settings, "seed=1"])
    for node in (first, second):
        assert node.process.wait(240) == 2
        assert "node 1 (" in node.text("err") and "differ in their recipe" in node.text("err")
    assert not (tmp_path / "results" / "tiny" / "recipe.yaml").exists()


def descendants(pid: int) -> list[int]:
    """Process ids below a process, by /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found, level = [], {pid}
    while level:
        level = {child for child, parent in parents.items() if parent in level}
        found += level
    return found


def workers_of(node: Node, what: str) -> list[int]:
    """The worker processes of a node, without torchrun's own."""
    found = []
    for pid in descendants(node.process.pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            if any(what in word for word in command) and "dice.launch.torchrun" not in command:
                found.append(pid)
    return found


def wait_for_workers(node: Node, what: str, nodes: list[Node]) -> list[int]:
    deadline = time.monotonic() + 240
    while not (found := workers_of(node, what)):
        assert time.monotonic() < deadline and all(one.process.poll() is None for one in nodes), [
            one.text(name) for one in nodes for name in ("out", "err")
        ]
        time.sleep(0.1)
    return found


@pytest.fixture
def real_settings(settings, tmp_path) -> list[str]:
    """A small real round: transformers samples and scores, LLaMA-Factory trains."""
    own = [
        "generate.samples=16", "generate.max_new_tokens=64", "pair.min_samples=2", "rounds=1",
        "generate.shard_size=1", "train.num_train_epochs=60", "train.learning_rate=1e-3",
        "train.logging_steps=1", "evaluate.prompts=null", "evaluate.judge=null",
        f"results_dir={tmp_path / 'results'}",
    ]  # fmt: skip
    return ["tiny", *settings, *own]


@pytest.mark.slow
def test_all_stages_for_real_and_nodes_that_die(real_settings, tmp_path, tell):
    """A worker, a whole node, and a node that falls silent: the others end within a minute, saying why.

    Each time the same commands go on from there, training included, until the run is done.
    """
    folder, times = tmp_path / "results" / "tiny" / "round-1", {}
    with nodes_on(tmp_path / "generate", real_settings) as nodes:
        wait_for(folder / "responses" / "part-00001.jsonl", nodes)
        begun = time.monotonic()
        os.kill(wait_for_workers(nodes[1], "dice.launch.worker", nodes)[0], signal.SIGKILL)
        times["a worker of node 1 died in generate"] = [ended(node, begun) for node in nodes]
        assert "error: node 1 (" in nodes[0].text("err")
        for node in nodes:
            assert "generate failed" in node.text("err")
            assert "a worker was killed by SIGKILL" in node.text("err")
    with nodes_on(tmp_path / "whole node", real_settings) as nodes:
        wait_for_workers(nodes[1], "dice.launch.worker", nodes)
        begun = time.monotonic()
        nodes[1].kill()
        times["node 1 died in generate"] = [ended(nodes[0], begun)]
        assert "node 1 (" in nodes[0].text("err") and "its process is gone" in nodes[0].text("err")
    with nodes_on(tmp_path / "train", real_settings) as nodes:
        wait_for(folder / "train" / "trainer_log.jsonl", nodes)
        begun = time.monotonic()
        nodes[0].kill()
        times["node 0 died in train"] = [ended(nodes[1], begun)]
        assert "node 0 (" in nodes[1].text("err") and "its process is gone" in nodes[1].text("err")
    (folder / "train" / "trainer_log.jsonl").unlink()
    with nodes_on(tmp_path / "silent", real_settings) as nodes:
        wait_for(folder / "train" / "trainer_log.jsonl", nodes)
        begun = time.monotonic()
        stopped = [nodes[1].process.pid, *descendants(nodes[1].process.pid)]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        times["node 1 fell silent in train"] = [ended(nodes[0], begun)]
        assert "it has been silent for 30 s" in nodes[0].text("err")
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    with nodes_on(tmp_path / "whole", [*real_settings, "train.num_train_epochs=2"]) as nodes:
        assert [node.process.wait(600) for node in nodes] == [0, 0], [node.text("err") for node in nodes]
    log = (folder / "logs" / "train.log").read_text()
    assert "world size: 2" in log and (folder / "logs" / "train.node-1.log").exists()
    status = run_script(sys.executable, "-m", "dice", "status", str(folder.parent), "--check")
    assert status.returncode == 0 and "every file is what its stage wrote" in status.stdout
    for what, seconds in times.items():
        tell(f"two nodes, {what}: exit after {', '.join(f'{s:.1f} s' for s in seconds)}")
