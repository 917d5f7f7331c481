"""Disks that are full, limited or read-only: one line that says where, status 1, nothing lost."""

import errno
import os
import resource
import subprocess
import sys
from functools import partial

import commands
import pytest
from commands import run_dice
from loops import loop
from outcome import files_of

from dice.errors import BadInput, StageFailed
from dice.launch import disk_errors, processes
from dice.recipe.paths import ROOT
from dice.run import files

GOES_ON = "make room, then the same command goes on; what is finished is kept"


def mount(*arguments: str) -> bool:
    command = ["mount", *arguments]
    return sys.platform == "linux" and subprocess.run(command, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, of 4 KiB until it is made larger."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)):
        pytest.skip("a tmpfs can't be mounted here (that takes root on Linux)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def resize(folder, size):
    assert mount("-o", f"remount,size={size}", str(folder))


def line_of(result):
    """The one line on stderr with which a command ended."""
    (line,) = result.stderr.strip().splitlines()
    return line


def names_in(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_what_a_disk_refuses_in_one_line(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    assert disk_errors.refusal(full, tmp_path) == f"{tmp_path}: no space left on device: {GOES_ON}"
    named = OSError(errno.EROFS, "Read-only file system", "/data/x")
    assert disk_errors.refusal(named, tmp_path).startswith(
        "/data/x: read-only file system: make it writable, then"
    )
    assert (
        disk_errors.refusal(FileNotFoundError(errno.ENOENT, "No such file", "/x")) is None
    )  # a mistake of ours
    with pytest.raises(OSError, match="/data/y") as caught, disk_errors.naming("/data/y"):
        raise full
    assert caught.value is full


def test_what_writing_into_a_folder_meets_with(tmp_path):
    assert disk_errors.refusal_of_writing(tmp_path) is None
    assert disk_errors.refusal_of_writing(tmp_path / "gone") is None  # no fault of a disk's


def test_what_a_worker_complains_of_becomes_one_line(tmp_path):
    """And its status: 1 for what a disk refuses, 2 for input that can't be used."""
    code = "from dice.launch.complaint import complaining\nwith complaining():\n    raise "
    for raised, kind, told in (
        ("OSError(28, 'full', '/x/\\x1b')", StageFailed, rf"it: /x/\x1b: no space left on device: {GOES_ON}"),
        ("__import__('dice.errors').errors.BadInput('/x:1: no')", BadInput, "/x:1: no"),
    ):
        with pytest.raises(kind) as caught:
            processes.run_logged([sys.executable, "-c", code + raised], tmp_path / "it.log", "it")
        assert str(caught.value) == told
    assert names_in(tmp_path) == {"it.log"}


def test_what_a_library_says_of_a_disk_is_the_end_of_the_log(tmp_path):
    code = "print('before'); raise RuntimeError('writing \\x1b[2J: No space left on device')"
    with pytest.raises(StageFailed) as caught:
        processes.run_logged([sys.executable, "-c", code], tmp_path / "it.log", "train")
    first, *rest = str(caught.value).splitlines()
    assert first == "train failed (status 1). The end of its log:" and rest[0] == "    before"
    assert rest[-2] == r"    RuntimeError: writing \x1b[2J: No space left on device"


def test_a_disk_too_full_for_the_log(small_disk):
    """A worker could not say why it failed."""
    code = "import sys; [sys.stderr.write('x' * 4096) for _ in range(9)]; sys.exit(3)"
    resize(small_disk, "8k")
    with pytest.raises(StageFailed, match=f"{small_disk}.*no space left on device"):
        processes.run_logged([sys.executable, "-c", code], small_disk / "it.log", "it")


@pytest.mark.slow
def test_a_stage_on_a_full_disk_goes_on_once_there_is_room(fake_settings, small_disk, fake_run):
    """Full at the start, full in the workers; in the end the files of a run that had room."""
    assert run_dice("generate", str(fake_run.path), "1").returncode == 0
    settings = [*fake_settings, f"results_dir={small_disk}"]
    run, seen = small_disk / "tiny", []
    for size in ("4k", "24k", "128k"):
        resize(small_disk, size)
        for command in (("start", "tiny", *settings), ("generate", str(run), "1")):
            result = run_dice(*command)
            if result.returncode:
                break
        assert result.returncode in (0, 1), result.stderr
        assert not [name for name in names_in(small_disk) if name.endswith(".tmp")]
        if result.returncode:
            assert str(small_disk) in line_of(result) and line_of(result).endswith(GOES_ON)
            seen.append(line_of(result).partition(": no space")[0].rpartition("/")[2])
    assert result.returncode == 0 and len(set(seen)) == 2, seen
    ours, theirs = files_of(run), files_of(fake_run.path)
    assert {name: ours[name] for name in ours if name != "recipe.yaml"} == {
        name: theirs[name] for name in theirs if name != "recipe.yaml"
    }


@pytest.mark.slow
def test_a_loop_whose_disk_fills_up_again_and_again(fake_settings, small_disk, tmp_path):
    assert loop(*fake_settings).returncode == 0
    sizes, stopped = ["16k", "40k", "96k", "160k", "240k", "300k", "1m"], 0
    for size in sizes:
        resize(small_disk, size)
        result = loop(*fake_settings, f"results_dir={small_disk}/results")
        if result.returncode:
            assert result.returncode == 1 and GOES_ON in line_of(result)
            stopped += 1
    assert result.returncode == 0 and stopped > 3
    ours, theirs = files_of(small_disk / "results" / "tiny"), files_of(tmp_path / "results" / "tiny")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == ["recipe.yaml"]


@pytest.mark.slow
def test_a_limit_on_what_may_be_written(fake_run):
    """A quota that needs no root: no file over 2,000 bytes; a shard of three prompts has more."""
    command = [sys.executable, "-m", "dice", "generate", str(fake_run.path), "1"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (2000, 2000))
    result = subprocess.run(command, cwd=ROOT, preexec_fn=limit, capture_output=True, text=True)
    assert result.returncode == 1
    assert "part-00000.jsonl: file too large: allow larger files (ulimit -f), then the" in line_of(result)
    assert not files.shards(fake_run.round_dir(1) / "responses")
    assert not list(fake_run.path.rglob("*.tmp"))
    assert run_dice("generate", str(fake_run.path), "1").returncode == 0


@pytest.mark.slow
def test_results_that_become_read_only(fake_settings, small_disk):
    """A stage that can't write says so; `status` still reads; with the folder writable again it goes on."""
    resize(small_disk, "1m")
    settings = [*fake_settings, f"results_dir={small_disk}"]
    assert run_dice("start", "tiny", *settings).returncode == 0
    assert mount("-o", "remount,ro", str(small_disk))
    result = run_dice("generate", str(small_disk / "tiny"), "1")
    assert result.returncode == 1
    assert line_of(result).startswith(f"error: {small_disk}/tiny/")
    assert "read-only file system: make it writable, then the same command goes on" in line_of(result)
    assert run_dice("status", str(small_disk / "tiny")).returncode == 0
    result = run_dice("start", "tiny", *settings)  # a results_dir that never worked is the recipe's fault
    assert result.returncode == 2 and "results_dir: " in line_of(result)
    assert mount("-o", "remount,rw", str(small_disk))
    assert run_dice("generate", str(small_disk / "tiny"), "1").returncode == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write where permissions say no")
def test_results_without_permission(fake_run):
    fake_run.path.chmod(0o500)
    try:
        result = run_dice("generate", str(fake_run.path), "1")
    finally:
        fake_run.path.chmod(0o700)
    assert result.returncode == 1 and "permission denied: allow access" in line_of(result)


@pytest.mark.slow
def test_a_training_that_finds_no_room(settings, small_disk):
    """LLaMA-Factory on a disk with room for its logs, not for a model: it says so, and then goes on."""
    resize(small_disk, "64m")
    changes = [
        *settings,
        f"results_dir={small_disk}",
        "generate.samples=16",
        "pair.min_samples=2",
        "rounds=1",
    ]
    commands.run_script("bash", "-c", f"$DICE_PYTHON -m dice start tiny {' '.join(changes)}")
    run = str(small_disk / "tiny")
    for stage in ("generate", "score", "pair"):
        assert run_dice(stage, run, "1").returncode == 0
    used = sum(path.stat().st_blocks for path in small_disk.rglob("*")) * 512
    resize(small_disk, str(used + (700 << 10)))
    result = run_dice("train", run, "1")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "no space left on device" in result.stderr.lower() and "whole log: " in result.stderr
    assert not (small_disk / "tiny" / "round-1" / "model").exists()
    resize(small_disk, "64m")
    result = run_dice("train", run, "1")
    assert result.returncode == 0, result.stderr
