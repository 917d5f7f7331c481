"""The scripts in the environments of users' shells and of clusters: they do what they do anywhere."""

import os
import re
import shutil
import subprocess
import sys

import fake_world
import pytest
from commands import run_script
from outcome import files_of

from dice.recipe.paths import ROOT

SCRIPTS = sorted(ROOT.glob("scripts/**/*.sh"))
# As on clusters: `module` comes by BASH_ENV, and with it whatever an administrator likes.
BASH_ENV = """
set -o noclobber
set -o posix
cd() { builtin cd "$@" && echo "moved to $PWD"; }
"""
CLUSTER = {  # of a job's second process of two, on another machine than the first
    "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1",
    "TORCHELASTIC_RUN_ID": "job", "MASTER_ADDR": "no-such-machine", "MASTER_PORT": "tcp://10.0.0.1:23456",
    "PET_NNODES": "2", "PET_STANDALONE": "1", "PET_RDZV_BACKEND": "none", "NODE_RANK": "7",
    "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1", "PMI_RANK": "1", "PMI_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "VLLM_PORT": "tcp://10.0.0.2:8000", "CUDA_VISIBLE_DEVICES": "NoDevFiles",
}  # fmt: skip


@pytest.fixture
def shell(tmp_path):
    """What a user's shell hands on to the scripts."""
    (tmp_path / "bash_env").write_text(BASH_ENV)
    (tmp_path / "scripts" / "run_dice").mkdir(parents=True)  # where CDPATH leads
    return {
        "CDPATH": f"{tmp_path}:.", "BASH_ENV": str(tmp_path / "bash_env"), "SHELLOPTS": "noclobber",
        "POSIXLY_CORRECT": "1", "GREP_OPTIONS": "--color=always", "TAR_OPTIONS": "--no-such-option",
        "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
    }  # fmt: skip


def test_every_script_that_changes_folders_frees_itself_of_the_users_shell():
    begin = "unset -f cd; unset CDPATH; set +o noclobber +o posix"
    for script in SCRIPTS:
        text = script.read_text(encoding="utf-8")
        cd = re.search(r"^[^#\n]*\bcd ['\"$]", text, re.MULTILINE)
        assert cd is None or begin in text[: cd.start()], script
        assert not re.search(r"^[^#\n]*\bgrep\b", text, re.MULTILINE), f"{script}: GREP_OPTIONS"


def test_the_usage_of_each_script(shell):
    for name in ("iter.sh", "ablate.sh", "pipeline.sh"):
        plain, there = (run_script("bash", f"scripts/run_dice/{name}", **env) for env in ({}, shell))
        assert there.returncode == plain.returncode == 2
        assert (there.stdout, there.stderr) == (plain.stdout, plain.stderr)
    for name in ("iter.sh", "ablate.sh"):
        refused = run_script("bash", f"scripts/run_dice/{name}", "--foo", "tiny")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == "error: '--foo' is not of the form key=value\n"


@pytest.mark.slow
def test_a_loop_in_a_users_shell_on_a_cluster(tmp_path, shell):
    """A recipe of one's own is named by a relative path, one that CDPATH knows as well."""

    def loop(name, **env):
        folder = tmp_path / name
        settings = fake_world.make_settings(fake_world.make_data(folder / "data"), folder / "results")
        shutil.copytree(ROOT / "scripts" / "run_dice" / "recipes" / "tiny", folder / "mine")
        command = ["bash", str(ROOT / "scripts" / "run_dice" / "iter.sh"), "mine", *settings]
        own = {**os.environ, "DICE_PYTHON": sys.executable, **env}
        ran = subprocess.run(
            [*command, "rounds=1", "run=it"], cwd=folder, env=own, capture_output=True, text=True, timeout=300
        )
        assert ran.returncode == 0, ran.stderr
        return files_of(folder / "results" / "it")

    (tmp_path / "mine").mkdir()
    there = loop("there", **shell, **CLUSTER)
    assert there == loop("plain") and there
