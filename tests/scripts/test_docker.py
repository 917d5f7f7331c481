"""The Dockerfile: read, not built. Its steps are the scripts, and what they need is copied."""

import fnmatch
import json
import re
import subprocess

from dice.recipe.paths import ROOT

STEPS = ("FROM", "RUN", "WORKDIR", "COPY", "CMD")


def steps() -> list[tuple[str, str]]:
    """The instructions with their arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def test_each_stage_installs_by_the_script():
    assert {step for step, _ in steps()} == {*STEPS}
    stages = [given.split(" AS ")[1] for step, given in steps() if step == "FROM"]
    made = [given for step, given in steps() if step == "RUN" and "setup.sh" in given]
    assert stages == ["cpu", "cuda"]
    assert made == ["DICE_DEVICE=cpu bash scripts/setup.sh", "DICE_DEVICE=gpu bash scripts/setup.sh"]
    for command in (json.loads(given) for step, given in steps() if step == "CMD"):
        assert command[0] == "bash" and (ROOT / command[1]).is_file()


def test_everything_but_what_is_made_is_copied():
    lines = (ROOT / ".dockerignore").read_text().split()
    ignored = [line.removeprefix("**/") for line in lines if not line.startswith("!")]
    kept = [line[1:] for line in lines if line.startswith("!")]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = listed.stdout.splitlines()
    lost = [
        file
        for file in files
        if any(fnmatch.fnmatch(file, rule) or file.startswith(f"{rule}/") for rule in ignored)
    ]
    assert files and set(lost) <= set(kept)
