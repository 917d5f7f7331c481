"""Kill the loop again and again, start it again each time, and compare what comes of it.

    python tests/crash.py --kills 200 [--engine fake|hf|both] [--seed N] [--jobs N] [--chain N]

A chain is one run of iter.sh (recipe tiny, 2 rounds and the evaluation) that is killed in every stage, goes
on each time, and must end with the files of a run that nothing disturbed. With `both` every sixth kill falls
on real models: transformers samples and scores, LLaMA-Factory trains with checkpoints.
Ends with status 1 where a file differs, a row is lost or doubled, a file is seen half-written, a process
outlives its loop or a signal makes a traceback. `--chain` repeats one chain of that seed.
"""

import argparse
import shutil
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest
from killing import Change, Failure, Kill, Loop, plan
from outcome import files_of, first_difference, rows_of
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

console = Console(highlight=False, soft_wrap=True)
EVERY = {"fake": 1, "hf": 2}  # kills of a stage in a chain: real engines are slow to start, not to go on
MODELS = """
import sys
from pathlib import Path
from conftest import make_random_model
for seed, folder in enumerate(sys.argv[1:]):
    make_random_model(Path(folder), seed)
"""
STAGES = ("start", "generate", "score", "pair", "train", "evaluate")


@dataclass
class Tally:
    """What the kills of an engine came to; chains run beside each other."""

    kills: list[Kill] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    half_written: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    rows: int = 0

    def fine(self) -> bool:
        return not (self.differing or self.half_written or self.failures or self.lost or self.doubled)


class Torment:
    """Chains of kills of one engine, against one run that nothing disturbed."""

    def __init__(self, engine: str, folder: Path, seed: int) -> None:
        self.engine, self.folder, self.seed = engine, folder, seed
        self.settings = fake_settings if engine == "fake" else real_settings(folder)
        self.tally, self.lock = Tally(), threading.Lock()
        self.changes: list[Change] = []

    def record(self) -> None:
        """The run that nothing disturbs."""
        loop = self._loop("undisturbed")
        self.changes = loop.record()
        self.files, self.rows = files_of(loop.run), rows_of(loop.run)
        self.tally.rows = self.rows.total()

    def _loop(self, name: str) -> Loop:
        folder = self.folder / name
        data = conftest.make_data(folder / "data")
        return Loop(folder, self.settings(data, folder / "results"))

    def chain(self, number: int, most: int, on_kill) -> None:
        """Kill a run up to `most` times, let it end, and count what is wrong with it."""
        loop = self._loop(f"chain-{number}")
        kills = plan(self.changes, number, self.seed, EVERY[self.engine])
        done: list[Kill] = []
        try:
            while struck := loop.go(kills if len(done) < most else []):
                kills = [kill for kill in kills if (kill.at, kill.when) != (struck.at, struck.when)]
                done.append(struck)
                on_kill()
                wrong = loop.check_files(self.files)
                with self.lock:
                    self.tally.kills.append(struck)
                    self.tally.half_written += [self._account(number, done, name) for name in wrong]
            self._compare(number, loop, done)
        except Failure as failure:
            with self.lock:
                self.tally.failures.append(self._account(number, done, str(failure)))
            return
        if self.tally.fine():
            shutil.rmtree(loop.folder)

    def _compare(self, number: int, loop: Loop, done: list[Kill]) -> None:
        files, rows = files_of(loop.run), rows_of(loop.run)
        with self.lock:
            for name in sorted(files.keys() | self.files.keys()):
                if files.get(name) != self.files.get(name):
                    what = first_difference(files.get(name), self.files.get(name))
                    self.tally.differing.append(self._account(number, done, f"{name}: {what}"))
            self.tally.lost += (self.rows - rows).total()
            self.tally.doubled += (rows - self.rows).total()

    def _account(self, number: int, done: list[Kill], what: str) -> str:
        kills = "".join(f"\n    killed in {kill.stage}: {kill}" for kill in done)
        again = f"python tests/crash.py --engine {self.engine} --seed {self.seed} --chain {number}"
        return f"{self.engine}, chain {number}: {what}{kills}\n    again: {again}"


def fake_settings(data: Path, results: Path) -> list[str]:
    return conftest.make_settings(data, results)


def real_settings(folder: Path):
    """Settings of a small run on random models, with a checkpoint every two steps."""
    policy, reference = folder / "policy", folder / "reference"
    made = conftest.run_python(MODELS, str(policy), str(reference))
    if made.returncode:
        raise Failure(f"the random models can't be made:\n{made.stderr}")
    changes = [
        f"policy={policy}", f"reference={reference}", "generate.engine=hf", "generate.samples=12",
        "generate.max_new_tokens=64", "generate.shard_size=2", "pair.min_samples=2", "evaluate.samples=2",
        "train.global_batch_size=4", "train.num_train_epochs=3", "train.learning_rate=1e-3",
        "train.logging_steps=1", "train.save_strategy=steps", "train.save_steps=2",
    ]  # fmt: skip
    return lambda data, results: [*conftest.make_settings(data, results), *changes]


def torment(engine: str, kills: int, folder: Path, seed: int = 0, jobs: int = 1, only: int | None = None):
    """Kill runs of an engine so many times in all (or as often as chain `only` does); the tally."""
    work = Torment(engine, folder, seed)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"kills ({engine})", total=None)
        work.record()
        progress.update(task, total=kills)
        numbers = iter([only] if only is not None else range(10_000))

        def one_after_the_other() -> None:
            while work.tally.fine() and (left := kills - progress.tasks[task].completed) > 0:
                with work.lock:
                    number = next(numbers, None)
                if number is None:
                    return
                work.chain(number, left, lambda: progress.advance(task))
                console.print(f"{engine}: chain {number}, {len(work.tally.kills)} kills so far", markup=False)

        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(lambda _: one_after_the_other(), range(jobs)))
    return work.tally


def report(tallies: dict[str, Tally]) -> bool:
    """Print the figures; whether all is as it has to be."""
    kills = [kill for tally in tallies.values() for kill in tally.kills]
    stages = Counter(kill.stage.partition(" ")[0] for kill in kills)
    console.print("kills per stage: " + ", ".join(f"{stage} {stages[stage]}" for stage in STAGES))
    console.print("kills per signal: " + _counted(f"{k.number.name} to the {k.whom}" for k in kills))
    console.print("kills per moment: " + _counted(f"{k.when} a change" for k in kills))
    for engine, tally in tallies.items():
        console.print(f"{engine}: {len(tally.kills)} kills, {tally.rows:,} rows in an undisturbed run")
        for account in (*tally.failures, *tally.half_written, *tally.differing[:5]):
            console.print(account, markup=False)
    every = list(tallies.values())
    figures = {
        "kills": len(kills),
        "stages spared": sum(not stages[stage] for stage in STAGES),
        "files that differ": sum(len(tally.differing) for tally in every),
        "files seen half-written": sum(len(tally.half_written) for tally in every),
        "rows lost": sum(tally.lost for tally in every),
        "rows doubled": sum(tally.doubled for tally in every),
        "runs that did not go on": sum(len(tally.failures) for tally in every),
    }
    for name, value in figures.items():
        console.print(f"{name}: {value}" + (" (required: 0)" if name != "kills" else ""))
    return all(not value for name, value in figures.items() if name != "kills")


def _counted(words) -> str:
    return ", ".join(f"{word} {count}" for word, count in sorted(Counter(words).items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--engine", choices=("fake", "hf", "both"), default="both")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="chains beside each other, of each engine")
    parser.add_argument("--chain", type=int, help="repeat this chain alone")
    given = parser.parse_args()
    shares = {given.engine: given.kills}
    if given.engine == "both":
        shares = {"fake": given.kills - given.kills // 6, "hf": given.kills // 6}
    folder = Path(tempfile.mkdtemp(prefix="dice-crash-"))
    console.print(f"runs lie in {folder}; seed {given.seed}")
    with ThreadPoolExecutor(len(shares)) as pool:
        found = {
            engine: pool.submit(torment, engine, kills, folder / engine, given.seed, given.jobs, given.chain)
            for engine, kills in shares.items()
        }
    passed = report({engine: tally.result() for engine, tally in found.items()})
    if passed:
        shutil.rmtree(folder)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
