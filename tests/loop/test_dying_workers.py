"""One process of several dies alone, in every stage: the loop ends soon, with status 1, and then goes on.

Generation by a real engine is in test_generation_workers.py.
"""

import signal
import sys
import time
from collections.abc import Callable

import fake_world
import pytest
from crash import real_settings
from killing import Kill, Loop
from outcome import files_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="killed processes are looked for in /proc"),
]
SOON = 30  # seconds


def dies_at(stage: str, change: str) -> Kill:
    return Kill(stage, f"{stage}: {change} (1)", "before", signal.SIGKILL, "process")


def go_on_after(loop: Loop, kills: list[Kill], tell: Callable[[str], None]) -> None:
    """Each of these deaths ends the loop, in time and with its log; at last it ends by itself."""
    for kill in kills:
        assert loop.go([kill]) == kill
        # The other worker may take the same shard before it is ended, and die at it as well.
        died, *_ = (line for line in loop.log.read_text().splitlines() if line.endswith("killed"))
        seconds = time.monotonic() - float(died.split("\t")[0])
        tell(f"{kill.stage}: from a worker's death to the exit {seconds:.1f} s")
        output = loop.output.read_text()
        assert seconds < SOON and f"error: {kill.stage.split()[0]} failed (" in output, output
    assert loop.go([]) is None


def test_one_of_two_workers_dies_in_each_stage(tmp_path, monkeypatch, tell):
    def make(name):
        data = fake_world.make_data(tmp_path / name / "data")
        settings = fake_world.make_settings(data, tmp_path / name / "results")
        return Loop(tmp_path / name, [*settings, "rounds=1"])

    whole, broken = make("whole"), make("broken")
    whole.record()
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    kills = [
        dies_at("generate 1", "os.rename tiny/round-1/responses/part-00002.jsonl"),
        dies_at("score 1", "os.rename tiny/round-1/scores/part-00001.jsonl"),
        dies_at("evaluate", "os.rename tiny/evaluate/responses/DPO/part-00001.jsonl"),
    ]
    go_on_after(broken, kills, tell)
    assert files_of(broken.run) == files_of(whole.run)


def test_one_of_two_processes_dies_while_training(tmp_path, monkeypatch, tell):
    """DDP on two processes: the first dies at its first checkpoint, the other one waits for it."""
    monkeypatch.setenv("NPROC_PER_NODE", "2")
    data = fake_world.make_data(tmp_path / "data")
    settings = real_settings(tmp_path)(data, tmp_path / "results")
    loop = Loop(tmp_path, [*settings, "rounds=1", "evaluate.judge=null", "evaluate.prompts=null"])
    go_on_after(loop, [dies_at("train 1", "os.rename tiny/round-1/train/checkpoint-2/complete.json")], tell)
    assert (loop.run / "round-1" / "model" / "model.safetensors").is_file()
