"""The report of two rounds of 10,000 prompts x 16 responses: time, memory, and the size of the page.

    python speed/report.py [--prompts=10000]

Makes the rounds as `speed/pair.py` does (210 MB of responses each) and pairs them; nothing is trained.
Then the report in a process of its own: with the tokens of its pairs (the fake engine's: one a byte), and
again with --quick, when they are kept. Ends with a line per figure; exits with 1 where one falls short.
About a minute and 1 GB of disk.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import figures
import fire
import pair as rounds

from dice.recipe.paths import ROOT
from dice.run.run import create_run, open_run
from dice.stages import pair
from dice.stages.order import execute


def make_run(folder: Path, prompts: int) -> Path:
    """The folder of a run with two rounds that are sampled, scored and paired."""
    run = open_run(rounds.make_run(folder, prompts))
    run.recipe.score.cutoff_len = 1 << 14  # of one token a byte
    create_run(run.recipe)
    rounds.write_manifests(run)
    execute(pair.STAGE, run, 1)
    shutil.copytree(run.round_dir(1), run.round_dir(2))
    return run.path


def measure(run: Path, *options: str) -> tuple[float, float]:
    """(seconds, GB of memory at its peak) of a report."""
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "dice", "report", str(run), *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit("the report failed")
    return time.monotonic() - begun, usage.ru_maxrss * 1024 / 1e9


def main(prompts: int = 10_000) -> int:
    folder = Path(tempfile.mkdtemp(prefix="dice-report-"))
    try:
        run = make_run(folder, prompts)
        with_tokens, _ = measure(run)
        page = (run / "report.html").stat().st_size / 1e6
        data = (run / "report.html").read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
        shaded = sum("rewards" in shown["chosen"] for part in json.loads(data) for shown in part["pairs"])
        quick, memory = measure(run, "--quick")
    finally:
        shutil.rmtree(folder)
    return figures.report(
        [
            figures.Figure("report, tokens computed (s)", with_tokens, at_most=60),
            figures.Figure("report, tokens kept (s)", quick, at_most=30),
            figures.Figure("memory (GB)", memory, at_most=1),
            figures.Figure("page (MB)", page, at_most=5),
            figures.Figure("pairs with tokens", shaded, at_least=100),
        ]
    )


if __name__ == "__main__":
    sys.exit(fire.Fire(main, serialize=lambda status: None))
