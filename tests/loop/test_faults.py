"""What may happen beside a run: a second one, a jumping clock, Ctrl-C, a dying worker or preparation."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import run_dice
from killing import hear_ctrl_c
from loops import ITER, loop, start_loop, wait_for
from outcome import files_of

from dice.recipe.paths import ROOT

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at in /proc")

# Python's clock goes an hour back or forth ten times a second; what counts seconds stays as it is.
JUMPS = """
import time
now, now_ns = time.time, time.time_ns
def hours():
    return int(10 * now()) % 3 - 1
time.time = lambda: now() + 3600 * hours()
time.time_ns = lambda: now_ns() + 3600 * 10**9 * hours()
"""


def start(*arguments: str, **env: str) -> subprocess.Popen:
    """iter.sh in a process group of its own, what it says in its pipes."""
    return subprocess.Popen(
        ["bash", ITER, "tiny", *arguments],
        cwd=ROOT, env={**os.environ, "DICE_PYTHON": sys.executable, **env},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(fake_settings, tmp_path):
    """During stages Python's clock, between them the times of files: an hour back, an hour on."""
    assert loop(*fake_settings, "rounds=1").returncode == 0
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(JUMPS)
    rng, run = random.Random(0), tmp_path / "other" / "tiny"
    for _ in range(2):
        process = start(
            *fake_settings, f"results_dir={tmp_path}/other", "rounds=1", PYTHONPATH=str(tmp_path / "clock")
        )
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        for path in run.rglob("*"):
            at = time.time() + rng.choice((-3600, 3600))
            os.utime(path, (at, at))
    assert stdout.count("done before") == 5  # the times of files count for nothing
    ours, theirs = files_of(run), files_of(tmp_path / "results" / "tiny")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["recipe.yaml"]  # it has results_dir


def refused(*arguments: str) -> str:
    """The one line with which a second iter.sh on a run ends."""
    result = loop(*arguments)
    assert result.returncode == 2, result.stdout
    (line,) = result.stderr.strip().splitlines()
    return line


@LINUX
@pytest.mark.slow
def test_a_second_loop_on_a_run_is_refused_and_names_the_first(fake_settings, tmp_path):
    """While a stage is at work: the first one goes on undisturbed."""
    run = tmp_path / "results" / "tiny"
    first = start(*fake_settings, "rounds=1")
    try:
        wait_for(run / "round-1" / "generate.started.json")
        os.killpg(first.pid, signal.SIGSTOP)  # so that it takes its time
        line = refused(*fake_settings, "rounds=1")
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    _, stderr = first.communicate(timeout=120)
    assert first.returncode == 0, stderr
    assert "is at work on this run" in line and str(run) in line and "process " in line


@LINUX
@pytest.mark.slow
def test_a_second_loop_is_refused_between_two_stages(fake_settings, tmp_path):
    """iter.sh is stopped while its first stage ends: no stage is at work then."""
    run = tmp_path / "results" / "tiny"
    first = start(*fake_settings, "rounds=1")
    try:
        wait_for(run / "round-1" / "generate.started.json")
        os.kill(first.pid, signal.SIGSTOP)
        wait_for(run / "round-1" / "generate.manifest.json")
        time.sleep(1)  # what is left of the stage's process
        assert not (run / "round-1" / "score.started.json").exists()
        assert "is at work on this run" in refused(*fake_settings, "rounds=1")
    finally:
        os.kill(first.pid, signal.SIGCONT)
        first.communicate(timeout=120)
    assert first.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_loop_with_one_line(fake_settings, tmp_path, number, tell):
    process = start(*fake_settings, "rounds=1")
    wait_for(tmp_path / "results" / "tiny" / "round-1" / "generate.started.json")
    time.sleep(0.1)  # the stage is waiting for its worker
    os.killpg(process.pid, number)
    begun = time.monotonic()
    _, stderr = process.communicate(timeout=60)
    tell(f"{number.name}: from the signal to the exit {time.monotonic() - begun:.2f} s")
    assert process.returncode in (128 + number, -number)
    line = f"stopped by {number.name}: the same command goes on from here\n"
    assert stderr == line or (number == signal.SIGTERM and not stderr)  # bash dies first, and takes it along
    assert not list((tmp_path / "results").rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.05, 0.1, 0.15, 0.2, 0.4])
def test_ctrl_c_at_the_very_start_shows_no_traceback(fake_run, delay):
    process = subprocess.Popen(
        [sys.executable, "-m", "dice", "generate", str(fake_run.path), "1"],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert str(ROOT / "dice") not in stderr  # in its first 15 ms Python runs no line of ours


@pytest.mark.slow
def test_ctrl_c_to_the_loop_alone_ends_it_after_the_stage(fake_settings, tmp_path):
    """As `kill -INT` does it, which reaches no stage."""
    process = start(*fake_settings)
    wait_for(tmp_path / "results" / "tiny" / "round-1" / "generate.started.json")
    process.send_signal(signal.SIGINT)
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "generate" in stdout and "score" not in stdout


@pytest.mark.slow
@LINUX
@pytest.mark.parametrize("whom", ["group", "loop"])
def test_a_kill_during_the_preparation(fake_settings, tmp_path, whom):
    """It ends with its loop, nothing is written for the run, and the next start begins it anew."""
    note = tmp_path / "prepared"
    (tmp_path / "prepare.py").write_text(
        "import os, pathlib, sys, time\n"
        f"note = pathlib.Path({str(note)!r})\n"
        "again = note.exists()\n"
        "note.write_text(str(os.getpid()))\n"
        "again or time.sleep(60)\n"
    )
    command = shlex.join(["python", str(tmp_path / "prepare.py")])
    settings = [word for word in fake_settings if not word.startswith("prepare=")]
    settings += [f"prepare={command}", "rounds=1"]
    process = start_loop(*settings)
    wait_for(note)
    time.sleep(0.1)
    pid = int(note.read_text())
    (os.killpg if whom == "group" else os.kill)(process.pid, signal.SIGKILL)
    process.wait()
    wait_until_gone(pid)
    assert not (tmp_path / "results").exists()
    assert run_dice("start", "tiny", *settings).returncode == 0
    assert (tmp_path / "results" / "tiny" / "recipe.yaml").exists()


@pytest.mark.slow
def test_two_preparations_at_once_wait_for_each_other(fake_settings, tmp_path):
    """Of two runs that are started together: they would write the same files."""
    note = tmp_path / "noted"
    (tmp_path / "prepare.py").write_text(
        "import pathlib, time\n"
        f"with pathlib.Path({str(note)!r}).open('a') as note:\n"
        "    print('begins', file=note, flush=True)\n"
        "    time.sleep(0.5)\n"
        "    print('ends', file=note)\n"
    )
    settings = [word for word in fake_settings if not word.startswith("prepare=")]
    settings.append(f"prepare={shlex.join(['python', str(tmp_path / 'prepare.py')])}")
    command = [sys.executable, "-m", "dice", "start", "tiny", *settings]
    both = [subprocess.Popen([*command, f"run={name}"], cwd=ROOT) for name in ("one", "two")]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert note.read_text().split() == ["begins", "ends", "begins", "ends"]
