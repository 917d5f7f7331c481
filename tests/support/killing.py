"""A loop that is killed and started again: kills, where they strike, and what has to hold after each."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from outcome import content_of

from dice.recipe.paths import ROOT

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
LAUNCH = 'CRASH_LOOP=$$ exec bash scripts/run_dice/iter.sh "$@"'
PATIENCE = 180  # seconds for a loop that was told to end: SIGINT to it alone is heard after the stage
# A line of a traceback that is ours: Ctrl-C in the 15 ms that Python itself takes to start is its to tell.
OURS = re.compile(rf'File "{re.escape(str(ROOT))}/(dice|scripts|llama-factory)/')
LONGEST = 900  # seconds after which a loop that nothing killed counts as hanging

# When, with what, and whom: `before` a change of a file, within milliseconds `after` it began, or at a
# random moment of the stage.
WAYS = (
    ("before", KILL, "group"), ("after", KILL, "group"), ("before", TERM, "group"), ("random", KILL, "group"),
    ("before", INT, "group"), ("before", KILL, "loop"), ("after", TERM, "loop"), ("before", KILL, "process"),
    ("random", INT, "group"), ("after", TERM, "group"), ("random", KILL, "loop"), ("random", INT, "loop"),
)  # fmt: skip


def hear_ctrl_c() -> None:
    """In a new process: take SIGINT as usual, which whatever a shell runs in the background does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Change:
    """A change of a file in the run that was recorded."""

    seconds: float  # since the loop's start
    stage: str
    name: str  # stage, what happens, the path, and the how many-th time: the same in every run


@dataclass(frozen=True)
class Kill:
    """A change of a file at which a loop is to be killed."""

    stage: str
    at: str | None  # the change's name; None is the start of the loop
    when: str
    number: signal.Signals
    whom: str  # the process group, the loop (iter.sh) alone, the process alone
    delay: float = 0.0  # seconds, where it comes from outside

    def __str__(self) -> str:
        late = f" + {1000 * self.delay:.0f} ms" if self.delay else ""
        return f"{self.number.name} to the {self.whom}, {self.when} {self.at or 'the start'}{late}"


class Failure(Exception):
    """What had to hold after a kill and doesn't."""


class Loop:
    """iter.sh in a folder of its own, with every change of its files noted."""

    def __init__(self, folder: Path, arguments: Sequence[str]) -> None:
        self.folder, self.arguments = folder, arguments
        self.log, self.points, self.output = (folder / name for name in ("changes", "points", "output"))
        self.results = folder / "results"
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def run(self) -> Path:
        return self.results / "tiny"

    def _start(self, kills: Sequence[Kill]) -> subprocess.Popen:
        orders = (f"{k.at}\t{int(k.number)}\t{k.whom}\n" for k in kills if k.when == "before")
        self.points.write_text("".join(orders))
        self.log.write_text("")
        environment = {
            "DICE_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT / "tests" / "support" / "interrupt"),
            "CRASH_FOLDER": str(self.results),
            "CRASH_LOG": str(self.log),
            "CRASH_POINTS": str(self.points),
            "OMP_NUM_THREADS": "1",
        }
        with self.output.open("w") as output:
            return subprocess.Popen(
                ["bash", "-c", LAUNCH, "loop", "tiny", *self.arguments],
                cwd=ROOT, env=os.environ | environment, stdout=output, stderr=output,
                stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=hear_ctrl_c,
            )  # fmt: skip

    def record(self) -> list[Change]:
        """Run undisturbed; the changes of files in their order."""
        begun = time.monotonic()
        if self._start([]).wait():
            raise Failure(f"the undisturbed run failed:\n{self.output.read_text()}")
        lines = (line.split("\t") for line in self.log.read_text().splitlines())
        return sorted(
            (Change(float(at) - begun, stage, name) for at, stage, name, _ in lines),
            key=lambda change: change.seconds,
        )

    def report(self) -> None:
        """Write the report of a run that has ended, so that it is compared with the other files."""
        command = [sys.executable, "-m", "dice", "report", str(self.run)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        made = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if made.returncode:
            raise Failure(f"the report fails:\n{made.stderr}")

    def go(self, kills: Sequence[Kill]) -> Kill | None:
        """Start, or go on, until one of these kills strikes, or (None) to the end.

        The kill that is returned has the stage that it struck. Raises Failure where the loop ends otherwise.
        """
        process = self._start(kills)
        try:
            kill = self._strike(process, {k.at: k for k in kills if k.when != "before"})
            status = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failure(f"{PATIENCE} s after it was told to end the loop still runs") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, KILL)
                process.wait()
        self._await_silence()
        if kill and kill.when == "random" and status == 0:
            kill = None  # it came while the loop was ending
        notes = [line.split("\t") for line in self.log.read_text().splitlines()]
        struck = {name for _, _, name, killed in notes if killed}
        kill = kill or next((k for k in kills if k.at in struck), None)
        self._check_end(kill, status)
        return kill and replace(kill, stage=notes[-1][1] if notes else "start")

    def _strike(self, process: subprocess.Popen, kills: dict[str | None, Kill]) -> Kill | None:
        """Watch for the changes of these kills, and kill after one; None where the loop ends before that."""
        launched = kills.pop(None, None)
        if launched:
            time.sleep(launched.delay)
            return self._send(process, launched)
        deadline = time.monotonic() + LONGEST
        with self.log.open() as log:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise Failure(f"after {LONGEST} s the loop still runs")
                for line in iter(log.readline, ""):
                    if kill := kills.get(line.split("\t")[2]):
                        time.sleep(kill.delay)
                        return self._send(process, kill)
                time.sleep(0.002)
        return None

    def _send(self, process: subprocess.Popen, kill: Kill) -> Kill | None:
        if process.poll() is not None:
            return None
        (os.kill if kill.whom == "loop" else os.killpg)(process.pid, kill.number)
        return kill

    def _await_silence(self) -> None:
        """Raises Failure where a process of the loop outlives it: it would write beside the next one."""
        deadline = time.monotonic() + 10
        while left := self._processes():
            if time.monotonic() > deadline:
                raise Failure(f"processes outlive the loop: {left}")
            time.sleep(0.01)

    def _processes(self) -> dict[int, str]:
        mark, found = f"CRASH_FOLDER={self.results}\0".encode(), {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (path / "environ").read_bytes():
                    found[int(path.name)] = (path / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has ended, or is another user's
                continue
        return found

    def _check_end(self, kill: Kill | None, status: int) -> None:
        output = self.output.read_text(errors="replace")
        if (kill is None) != (status == 0):
            raise Failure(f"the loop ended with status {status} instead of being killed:\n{output[-3000:]}")
        if kill and kill.whom != "process" and OURS.search(output):
            raise Failure(f"a traceback on the terminal:\n{output[-3000:]}")

    def check_files(self, expected: dict[str, bytes]) -> list[str]:
        """Files of an undisturbed run that are here under their names, but not as there."""
        return [
            name
            for name, content in expected.items()
            if (path := self.run / name).is_file() and content_of(path, self.folder) != content
        ]


def plan(changes: list[Change], chain: int, seed: int, every: int = 1) -> list[Kill]:
    """The kills of a chain, in order: `every` of them in each stage, so that none is spared.

    Chains with one seed take other changes of a stage until all have been taken, and other ways to kill.
    """
    rng = random.Random(f"{seed} {chain}")
    stages = {change.stage: [c for c in changes if c.stage == change.stage] for change in changes}
    kills, way, begun = [], chain, 0.0
    for stage, own in stages.items():
        order = random.Random(f"{seed} {stage}").sample(own, len(own))
        for index in range(every):
            when, number, whom = WAYS[way % len(WAYS)]
            way += 1
            change, delay = order[(chain * every + index) % len(order)], 0.0
            if when == "after":
                delay = rng.uniform(0, 0.003)
            elif when == "random":
                moment = rng.uniform(begun, own[-1].seconds)
                past = [c for c in changes if c.seconds <= moment]
                change, delay = (past[-1] if past else None), moment - (past[-1].seconds if past else 0)
            kills.append(Kill(stage, change and change.name, when, number, whom, delay))
        begun = own[-1].seconds
    return kills
