"""One process at a time works on a run."""

import os
import subprocess
import sys

import pytest
from commands import run_script

from dice.errors import BadInput
from dice.recipe.paths import ROOT
from dice.run import lock
from dice.run.run import create_run
from dice.stages import prepare


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "GRACE", 0.3)


def test_the_holder_is_named_and_gone_with_its_process(fake_run):
    code = "import sys, time; from pathlib import Path; from dice.run.lock import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code, fake_run.path], cwd=ROOT, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert lock.holder(fake_run.path).startswith(f"process {other.pid} on ")
        with pytest.raises(BadInput, match=f"process {other.pid} on .* is at work on this run"):
            create_run(fake_run.recipe)
        other.kill()
        other.wait()
        assert lock.holder(fake_run.path) is None
        with lock.locked(fake_run.path):
            pass


def test_a_loop_holds_its_run_between_two_stages(fake_run, monkeypatch):
    """The descriptor is the loop's: its stages pass, nobody else does."""
    monkeypatch.setattr(lock, "GRACE", 0)
    path = fake_run.path / ".lock"
    descriptor = os.open(path, os.O_RDWR)
    monkeypatch.setenv(lock.INHERITED, str(descriptor))
    lock.take_for_loop(fake_run.path)
    with lock.locked(fake_run.path):  # a stage of this loop
        pass
    assert lock.holder(fake_run.path).startswith(f"iter.sh, process {os.getppid()} on ")
    monkeypatch.delenv(lock.INHERITED)
    with pytest.raises(BadInput, match="iter.sh, process .* is at work"), lock.locked(fake_run.path):
        pass
    os.close(descriptor)
    with lock.locked(fake_run.path):
        pass


def test_another_loops_descriptor_is_not_this_runs_lock(fake_run, tmp_path, monkeypatch):
    """A run that is started from within another one's loop."""
    with (tmp_path / "other").open("w") as other:
        monkeypatch.setenv(lock.INHERITED, str(other.fileno()))
        with lock.locked(fake_run.path):
            assert lock.holder(fake_run.path)


@pytest.mark.slow
def test_a_second_loop_refuses_and_names_the_first(fake_settings, tmp_path):
    result = run_script("bash", "scripts/run_dice/iter.sh", "tiny", *fake_settings, "rounds=1")
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "results" / "tiny"
    assert lock.holder(folder) is None
    with (folder / ".lock").open("r+") as held, pytest.MonkeyPatch.context() as patch:
        patch.setenv(lock.INHERITED, str(held.fileno()))
        lock.take_for_loop(folder)
        patch.delenv(lock.INHERITED)
        second = run_script("bash", "scripts/run_dice/iter.sh", "tiny", *fake_settings, "rounds=1")
    assert second.returncode == 2
    assert f"iter.sh, process {os.getppid()} on" in second.stderr and "is at work" in second.stderr


def test_a_lock_that_is_a_folder(fake_run):
    (fake_run.path / ".lock").unlink()
    (fake_run.path / ".lock").mkdir()
    with pytest.raises(BadInput, match=r"/\.lock is a folder, .*; remove it"), lock.locked(fake_run.path):
        pass
    assert lock.holder(fake_run.path) is None


def test_a_run_that_is_held_is_not_prepared_for(fake_run, fake_settings, tmp_path):
    """The models that a loop has begun with must stay as they are."""
    settings = [*fake_settings, f"prepare=touch {tmp_path / 'prepared'}"]
    with lock.locked(fake_run.path), pytest.raises(BadInput, match="is at work on this run"):
        prepare.start("tiny", settings)
    assert not (tmp_path / "prepared").exists()
    prepare.start("tiny", settings)
    assert (tmp_path / "prepared").exists()
