"""Two machines on one run, as two groups of processes on this one: the same iter.sh on each."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import conftest
import pytest
from conftest import run_script

from dice import store
from dice.recipe import ROOT

ITER = "scripts/run_dice/iter.sh"


def free_port() -> int:
    """A port of which the next one is free, too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", first.getsockname()[1] + 1))
                return first.getsockname()[1]


class Node:
    """One of the two machines, at work on iter.sh."""

    def __init__(self, rank: int, port: int, logs: Path, arguments: list[str], **env: str) -> None:
        logs.mkdir(exist_ok=True)
        self.outputs = {name: logs / f"node-{rank}.{name}" for name in ("out", "err")}
        own = {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with self.outputs["out"].open("w") as out, self.outputs["err"].open("w") as err:
            self.process = subprocess.Popen(
                ["bash", ITER, *arguments],
                cwd=ROOT,
                env={**os.environ, "DICE_PYTHON": sys.executable, **own, **env},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def text(self, name: str) -> str:
        return self.outputs[name].read_text()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def two_nodes(logs: Path, arguments: list[str], **env: str) -> Iterator[list[Node]]:
    port = free_port()
    nodes = [Node(rank, port, logs, arguments, **env) for rank in (0, 1)]
    try:
        yield nodes
    finally:
        for node in nodes:
            node.kill()


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


def test_a_loop_on_two_nodes_is_that_of_one(fake_settings, tmp_path):
    """With the fake engine, whose every stage but `train` is the same on any number of workers."""
    alone = run_script("bash", ITER, "tiny", *fake_settings, f"results_dir={tmp_path / 'alone'}")
    assert alone.returncode == 0, alone.stderr
    with two_nodes(tmp_path / "logs", ["tiny", *fake_settings]) as nodes:
        for node in nodes:
            assert node.process.wait(120) == 0, node.text("err")
        assert "✓ generate" in nodes[0].text("out") and "(node 1)" in nodes[1].text("out")
        assert all("win rate against DPO" in node.text("out") for node in nodes)
    one, two = tmp_path / "alone" / "tiny", tmp_path / "results" / "tiny"
    for name in ("responses", "scores"):
        for path in store.shards(one / "round-1" / name):
            assert (two / "round-1" / name / path.name).read_bytes() == path.read_bytes()
    assert (two / "round-2" / "pairs.jsonl").read_bytes() == (one / "round-2" / "pairs.jsonl").read_bytes()


def test_nodes_that_were_not_started_alike(fake_settings, tmp_path):
    port = free_port()
    first = Node(0, port, tmp_path / "logs", ["tiny", *fake_settings])
    second = Node(1, port, tmp_path / "logs", ["tiny", *fake_settings, "seed=1"])
    for node in (first, second):
        assert node.process.wait(60) == 2
        assert "node 1 (" in node.text("err") and "differ in their recipe" in node.text("err")
    assert not (tmp_path / "results" / "tiny" / "recipe.yaml").exists()
