"""scripts/setup.sh, with a Python that installs nothing: when it makes .venv, and when it leaves it alone."""

import contextlib
import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dice.recipe.paths import ROOT

pytestmark = pytest.mark.slow

# Notes what it is called with; makes an environment whose python is itself.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$CALLS"
if [[ "$1 $2" == "-m venv" ]]; then
  sleep 0.3
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
fi
[[ "$*" != *"import torchaudio" || -e "$CALLS.torchaudio" ]] || exit 1
[[ "$*" != *"install "*torchaudio* || "$*" == *"+cpu" && "$NO_CPU_BUILD" ]] || touch "$CALLS.torchaudio"
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What setup.sh needs of a checkout, and a PATH with that Python and, as asked for, a GPU."""
    (tmp_path / "scripts").mkdir()
    for name in ("scripts/setup.sh", "requirements.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    for name, text in (("python3.11", PYTHON), ("nvidia-smi", "#!/bin/sh\nexit $NO_GPU\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("NO_GPU", "1")
    for name in ("DICE_PYTHON", "DICE_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def setup(checkout: Path, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "scripts/setup.sh"], cwd=checkout, env={**os.environ, **env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def made(checkout: Path, **env: str) -> str:
    """What setup.sh says; nothing where it finds the environment as it is to be."""
    process = setup(checkout, **env)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 0, told
    return told


@pytest.mark.skipif(not shutil.which("flock"), reason="without flock there is no lock")
def test_two_at_once_make_one_environment(checkout):
    both = [setup(checkout), setup(checkout)]
    told = "".join(process.communicate(timeout=30)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0], told
    assert (checkout / "calls").read_text().count("-m venv .venv") == 1
    assert told.count("waiting for another") == told.count("done: ") == 1
    assert made(checkout) == ""


@pytest.mark.slow
def test_an_environment_for_gpus_is_kept(checkout):
    assert "for cpu" in made(checkout)
    assert "for gpu" in made(checkout, NO_GPU="0")  # a machine with a GPU
    for elsewhere in ({}, {"NO_GPU": "0"}, {"NO_GPU": "0", "DICE_DEVICE": "cpu"}):
        assert made(checkout, **elsewhere) == ""
    with (checkout / "requirements.txt").open("a") as file:
        file.write("# another version\n")
    assert "for gpu" in made(checkout)  # on a login node


def test_the_pins_suit_each_other():
    """By what each pinned package says of the others, and what transformers asks for when peft is used."""
    peft = metadata.distribution("transformers").locate_file("transformers/integrations/peft.py")
    least = re.search(r'MIN_PEFT_VERSION = "(.+)"', peft.read_text(encoding="utf-8"))[1]
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    asked = [Requirement(f"peft>={least}")]
    for name in pins:
        with contextlib.suppress(metadata.PackageNotFoundError):
            asked += map(Requirement, metadata.requires(name) or [])
    unsuited = [
        str(needed)
        for needed in asked
        if needed.name in pins
        and (needed.marker is None or needed.marker.evaluate({"extra": ""}))
        and not needed.specifier.contains(pins[needed.name])
    ]
    assert unsuited == []


@pytest.mark.parametrize("no_cpu_build", ["", "yes"])
def test_llama_factory_gets_a_torchaudio_or_what_stands_in_for_it(checkout, no_cpu_build):
    """Its own command line imports torchaudio; beside a CPU torch the package index's build does not run."""
    told = made(checkout, NO_CPU_BUILD=no_cpu_build)
    installed = [line for line in (checkout / "calls").read_text().splitlines() if "torchaudio" in line]
    stands_in = [line for line in installed if line.endswith("./llama-factory/torchaudio")]
    assert any(line.endswith("torchaudio==2.11.1+cpu") for line in installed)
    assert bool(stands_in) == ("stands in for it" in told) == bool(no_cpu_build)
