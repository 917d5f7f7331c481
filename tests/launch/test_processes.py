"""Workers: their output, their failures, their number."""

import os
import sys

import pytest

from dice.errors import BadInput, StageFailed
from dice.launch import devices, machines, processes


def test_output_goes_to_the_log(tmp_path, capfd):
    log = tmp_path / "logs" / "it.log"
    processes.run_logged([sys.executable, "-c", "print('hello')"], log, "it")
    assert log.read_text().splitlines()[-1] == "hello"
    assert "hello" not in capfd.readouterr().out


def test_a_failure_shows_the_end_of_the_log(tmp_path):
    code = "print('first'); [print('line', i) for i in range(50)]; raise SystemExit(3)"
    with pytest.raises(StageFailed) as caught:
        processes.run_logged([sys.executable, "-c", code], tmp_path / "it.log", "it")
    message = str(caught.value)
    assert "it failed (status 3)" in message and "line 49" in message and "first" not in message
    assert f"whole log: {tmp_path / 'it.log'}" in message


def test_a_failure_whose_log_was_emptied(tmp_path):
    code = f"open({str(tmp_path / 'it.log')!r}, 'w').close(); raise SystemExit('why')"
    with pytest.raises(StageFailed, match="it failed .status 1.. The end of its log:\n    why"):
        processes.run_logged([sys.executable, "-c", code], tmp_path / "it.log", "it")


@pytest.mark.slow
def test_under_torchrun_the_cause_is_shown_not_torchruns_table(tmp_path):
    (tmp_path / "it.py").write_text("raise MemoryError('the cause')")
    with pytest.raises(StageFailed) as caught:
        processes.run_logged(processes.torchrun([str(tmp_path / "it.py")], 2), tmp_path / "it.log", "it")
    assert "MemoryError: the cause" in str(caught.value) and "ChildFailedError" not in str(caught.value)


def test_a_workers_complaint_about_its_input_becomes_one_line(fake_run):
    """A worker that finds its input unusable: here, a prompt file that is none."""
    folder = fake_run.round_dir(1)
    folder.mkdir(parents=True)
    (folder / "prompts.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match="prompts.jsonl:1: not a Prompt row"):
        processes.run_workers("dice.stages.generate", folder, [str(fake_run.path), "1"], "responses")
    assert "error: " in (folder / "logs" / "generate.log").read_text()
    assert not (folder / "generate.progress").exists()
    assert not (folder / "logs" / "generate.complaint").exists()


@pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (35, "signal 35")])
def test_a_killed_command_says_so(tmp_path, number, name):
    """Real-time signals have no names."""
    code = f"import os; os.kill(os.getpid(), {number})"
    with pytest.raises(StageFailed, match=f"it failed .killed by {name}."):
        processes.run_logged([sys.executable, "-c", code], tmp_path / "it.log", "it")


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_worker_dies_with_its_parent(tmp_path):
    import signal
    import subprocess
    import time

    code = f"""
import sys; sys.path.insert(0, {str(processes.ROOT)!r})
from pathlib import Path
from dice.launch import processes
child = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
log = Path({str(tmp_path / "it.log")!r})
processes.run_logged([sys.executable, "-c", child], log, "it")
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "it.log"
    deadline = time.monotonic() + 20
    while (not log.exists() or not log.read_text().split()[-1].isdigit()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = int(log.read_text().split()[-1])
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid):
    try:
        return "Z" not in open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_the_number_of_workers(monkeypatch):
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    assert (devices.gpu_count(), devices.workers_per_node()) == (2, 2)
    monkeypatch.setenv("NPROC_PER_NODE", "3")
    with pytest.raises(BadInput, match="NPROC_PER_NODE is 3, more than the 2 GPUs here"):
        devices.workers_per_node()
    monkeypatch.delenv("NPROC_PER_NODE")
    monkeypatch.setenv("DICE_DEVICE", "cpu")
    assert devices.gpu_count() == 0 and processes.environment()["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.delenv("DICE_DEVICE")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (devices.gpu_count(), devices.workers_per_node()) == (0, 1)
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    assert devices.workers_per_node() == 4
    monkeypatch.setenv("NPROC_PER_NODE", "none")
    with pytest.raises(BadInput, match="NPROC_PER_NODE is 'none'"):
        devices.workers_per_node()
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    monkeypatch.setenv("NNODES", "2")
    assert devices.process_count() == 8
    monkeypatch.setenv("NODE_RANK", "2")
    with (
        pytest.raises(BadInput, match="NODE_RANK is 2; with NNODES 2 it is 0 to 1"),
        machines.meeting("x"),
    ):
        pass
    monkeypatch.setenv("NODE_RANK", "1")
    with pytest.raises(BadInput, match="NNODES is 2, so MASTER_ADDR must say"), machines.meeting("x"):
        pass


def test_what_another_launcher_has_told_counts_for_nothing(monkeypatch):
    """It is not handed on, and one node meets itself here, wherever a cluster says that node 0 is."""
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "PET_NNODES": "2", "PMI_SIZE": "2"}
    told |= {"OMPI_COMM_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "job", "MPI_LOCALNRANKS": "2"}
    told |= {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "29500", "VLLM_PORT": "tcp://10.0.0.1:80"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert not told.keys() & processes.environment().keys()
    assert "--master_addr=127.0.0.1" in processes.torchrun(["x"], 2)
    assert "--master_port=29500" not in processes.torchrun(["x"], 2)
    monkeypatch.setenv("WORLD_SIZES", "2")  # somebody else's
    monkeypatch.setenv("VLLM_PORT", "8000")
    assert {"WORLD_SIZES", "VLLM_PORT"} <= processes.environment().keys()


def test_gpus_are_counted_by_line(monkeypatch, tmp_path):
    """Some names have "GPU" in them twice."""
    listing = "GPU 0: NVIDIA GeForce RTX 3060 Laptop GPU (UUID: GPU-1)\nGPU 1: NVIDIA H100 (UUID: GPU-2)\n"
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '{listing}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert devices.gpu_count() == 2


def test_this_checkout_is_importable_in_what_is_started(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    assert processes.environment()["PYTHONPATH"].split(os.pathsep) == [str(processes.ROOT), "/somewhere"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "²", "٣", "9" * 5000, " 2"])
def test_a_number_of_workers_that_is_none(monkeypatch, value):
    monkeypatch.setenv("DICE_DEVICE", "cpu")
    monkeypatch.setenv("NPROC_PER_NODE", value)
    with pytest.raises(
        BadInput, match="environment: NPROC_PER_NODE is .*; it must be a number of at least 1"
    ):
        devices.workers_per_node()
