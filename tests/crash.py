"""Kill the loop again and again, start it again each time, and compare what comes of it.

    python tests/crash.py --kills 200 [--engine fake|hf|both] [--seed N] [--jobs N] [--chain N]

A chain is one run of iter.sh (recipe tiny, 2 rounds and the evaluation) that is killed in every stage, goes
on each time, and must end with the files of a run that nothing disturbed; so must the report that is written
of it then. With `both` every sixth kill falls on real models: transformers samples and scores, LLaMA-Factory
trains with checkpoints.
Ends with status 1 where a file differs, a row is lost or doubled, a file is seen half-written, a process
outlives its loop or a signal makes a traceback. `--chain` repeats one chain of that seed.
"""

import argparse
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":
    tests = Path(__file__).resolve().parent
    sys.path[:0] = [str(tests.parent), str(tests / "support")]

import commands
import fake_world
from killing import Change, Failure, Kill, Loop, plan
from outcome import files_of, first_difference, rows_of
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

console = Console(highlight=False, soft_wrap=True)
EVERY = {"fake": 1, "hf": 2}  # kills of a stage in a chain: real engines are slow to start, not to go on
MODELS = """
import sys
from pathlib import Path
from fake_world import make_random_model
for seed, folder in enumerate(sys.argv[1:]):
    make_random_model(Path(folder), seed)
"""
STAGES = ("start", "generate", "score", "pair", "train", "evaluate")


@dataclass
class Tally:
    """What the kills of an engine came to; chains run beside each other."""

    kills: list[Kill] = field(default_factory=list)
    differing: int = 0  # files, at the end of a chain
    half_written: int = 0  # files, right after a kill
    failures: int = 0  # chains that did not go on
    lost: int = 0  # rows
    doubled: int = 0  # rows
    rows: int = 0  # of a run that nothing disturbed
    accounts: list[str] = field(default_factory=list)  # of chains where something is wrong

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
        loop.report()
        self.files, self.rows = files_of(loop.run), rows_of(loop.run)
        self.tally.rows = self.rows.total()

    def _loop(self, name: str) -> Loop:
        folder = self.folder / name
        data = fake_world.make_data(folder / "data")
        return Loop(folder, self.settings(data, folder / "results"))

    def chain(self, number: int, most: int, on_kill: Callable[[], None]) -> None:
        """Kill a run up to `most` times, let it end, and count what is wrong with it."""
        loop, done = self._loop(f"chain-{number}"), []
        kills = plan(self.changes, number, self.seed, EVERY[self.engine])
        if most < len(kills):  # few, but over all stages
            kills = [kills[index * len(kills) // most] for index in range(most)]
        try:
            while struck := loop.go(kills):
                kills = [kill for kill in kills if (kill.at, kill.when) != (struck.at, struck.when)]
                done.append(struck)
                on_kill()
                with self.lock:
                    self.tally.kills.append(struck)
                if wrong := loop.check_files(self.files):
                    self._count(
                        number, done, [f"{name} is not whole" for name in wrong], half_written=len(wrong)
                    )
                    return
            loop.report()
            self._compare(number, loop, done)
        except Failure as failure:
            self._count(number, done, [str(failure)], failures=1)
        if self.tally.fine():
            shutil.rmtree(loop.folder)

    def _compare(self, number: int, loop: Loop, done: list[Kill]) -> None:
        files, rows = files_of(loop.run), rows_of(loop.run)
        names = sorted(files.keys() | self.files.keys())
        wrong = [name for name in names if files.get(name) != self.files.get(name)]
        said = [f"{name}: {first_difference(files.get(name), self.files.get(name))}" for name in wrong]
        lost, doubled = (self.rows - rows).total(), (rows - self.rows).total()
        if wrong or lost or doubled:
            self._count(number, done, said, differing=len(wrong), lost=lost, doubled=doubled)

    def _count(self, number: int, done: list[Kill], said: list[str], **counts: int) -> None:
        """Add to the tally, with an account of the chain: what is wrong, its kills, how to repeat it."""
        lines = [f"{self.engine}, chain {number}:", *(f"  {what}" for what in said[:5])]
        lines += [f"  killed in {kill.stage}: {kill}" for kill in done]
        lines.append(
            f"  again: python tests/crash.py --engine {self.engine} --seed {self.seed} --chain {number}"
        )
        with self.lock:
            self.tally.accounts.append("\n".join(lines))
            for name, count in counts.items():
                setattr(self.tally, name, getattr(self.tally, name) + count)


def fake_settings(data: Path, results: Path) -> list[str]:
    return fake_world.make_settings(data, results)


def real_settings(folder: Path) -> Callable[[Path, Path], list[str]]:
    """Settings of a small run on random models, with a checkpoint every two steps."""
    policy, reference = folder / "policy", folder / "reference"
    made = commands.run_python(MODELS, str(policy), str(reference))
    if made.returncode:
        raise Failure(f"the random models can't be made:\n{made.stderr}")
    changes = [
        f"policy={policy}", f"reference={reference}", "generate.engine=hf", "generate.samples=12",
        "generate.max_new_tokens=64", "generate.shard_size=2", "pair.min_samples=2", "evaluate.samples=2",
        "train.global_batch_size=4", "train.num_train_epochs=3", "train.learning_rate=1e-3",
        "train.logging_steps=1", "train.save_strategy=steps", "train.save_steps=2",
    ]  # fmt: skip
    return lambda data, results: [*fake_world.make_settings(data, results), *changes]


def bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def torment(
    engine: str,
    kills: int,
    folder: Path,
    progress: Progress,
    seed: int = 0,
    jobs: int = 1,
    only: int | None = None,
) -> Tally:
    """Kill runs of an engine so many times in all (or as often as chain `only` does); the tally."""
    work = Torment(engine, folder, seed)
    task = progress.add_task(f"kills ({engine})", total=None)
    work.record()
    progress.update(task, total=kills)
    numbers = iter([only] if only is not None else range(10_000))

    def one_after_the_other() -> None:
        while work.tally.fine() and (left := kills - len(work.tally.kills)) > 0:
            with work.lock:
                number = next(numbers, None)
            if number is None:
                return
            work.chain(number, left, lambda: progress.advance(task))
            progress.console.print(f"{engine}: chain {number}, {len(work.tally.kills)} kills so far")

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(one_after_the_other) for _ in range(jobs)]:
            done.result()
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
        for account in tally.accounts:
            console.print(account, markup=False)
    every = list(tallies.values())
    figures = {
        "kills": len(kills),
        "stages spared": sum(not stages[stage] for stage in STAGES),
        "files that differ": sum(tally.differing for tally in every),
        "files seen half-written": sum(tally.half_written for tally in every),
        "rows lost": sum(tally.lost for tally in every),
        "rows doubled": sum(tally.doubled for tally in every),
        "runs that did not go on": sum(tally.failures for tally in every),
    }
    for name, value in figures.items():
        console.print(f"{name}: {value}" + (" (required: 0)" if name != "kills" else ""))
    return all(not value for name, value in figures.items() if name != "kills")


def _counted(words: Iterable[str]) -> str:
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
    with bars() as progress, ThreadPoolExecutor(len(shares)) as pool:
        found = {
            engine: pool.submit(
                torment, engine, kills, folder / engine, progress, given.seed, given.jobs, given.chain
            )
            for engine, kills in shares.items()
        }
    passed = report({engine: tally.result() for engine, tally in found.items()})
    if passed:
        shutil.rmtree(folder)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
