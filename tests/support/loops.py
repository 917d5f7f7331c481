"""iter.sh as a test starts it."""

import os
import subprocess
import sys
import time
from pathlib import Path

from commands import run_script

from dice.recipe.paths import ROOT

ITER = "scripts/run_dice/iter.sh"


def loop(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script("bash", ITER, "tiny", *arguments, timeout=300)


def start_loop(*arguments: str) -> subprocess.Popen:
    """iter.sh in a process group of its own."""
    return subprocess.Popen(
        ["bash", ITER, "tiny", *arguments],
        cwd=ROOT,
        env={**os.environ, "DICE_PYTHON": sys.executable},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert path.exists()
