"""Scripts and commands of the checkout, run as a user runs them."""

import os
import subprocess
import sys

from dice.recipe.paths import ROOT


def run_script(*command: str, timeout: float = 600, **env: str) -> subprocess.CompletedProcess[str]:
    """A script or command of the repository, with the Python that runs the tests."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "DICE_PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_dice(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m dice ...`."""
    return run_script(sys.executable, "-m", "dice", *arguments)


def run_python(
    script: str, *arguments: str, timeout: float = 600, **env: str
) -> subprocess.CompletedProcess[str]:
    """A piece of Python in a process of its own, with tests and package importable."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    return run_script(sys.executable, "-c", script, *arguments, timeout=timeout, PYTHONPATH=path, **env)
