"""Programs that the documents tell a user to run by `python FILE`: this checkout's package, or one line."""

import sys

import pytest
from commands import run_script

from dice.recipe.paths import ROOT

pytestmark = pytest.mark.slow

PROGRAMS = [
    path.relative_to(ROOT)
    for folder in ("scripts/tiny", "scripts/instructions", "scripts/data", "speed")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
    and not path.name.startswith("gpu_check")  # which says what is missing, and does the rest
]


@pytest.mark.parametrize("program", [*PROGRAMS, "-m dice"], ids=str)
def test_a_missing_package_is_named_and_another_checkouts_package_is_not_used(program, tmp_path):
    """-S hides installed packages; the other package `dice` would fail where it is imported."""
    if program != "-m dice":
        (tmp_path / "dice").mkdir()
        (tmp_path / "dice" / "__init__.py").write_text("raise SystemExit('another checkout')")
    ran = run_script(sys.executable, "-S", *str(program).split(), PYTHONPATH=str(tmp_path))
    *_, line = ran.stderr.splitlines() or [""]
    assert line.startswith(f"error: {sys.executable} has no package '"), ran.stderr
    assert "bash scripts/setup.sh makes .venv with the tested stack" in line and "Traceback" not in ran.stderr
    assert ran.returncode == 2


def test_another_error_is_what_it_was():
    ran = run_script(sys.executable, "-c", "import dice.launch.packages, dice.nothing")
    assert ran.returncode == 1 and "ModuleNotFoundError: No module named 'dice.nothing'" in ran.stderr
