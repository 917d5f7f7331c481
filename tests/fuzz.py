"""Fuzzing of everything that DICE reads:

    python tests/fuzz.py [--examples N] [--seed S] [--only READER]

Every reader gets N inputs out of shape (tests/support/fuzz_input.py, drawn by hypothesis), every command N
runs of which a file was spoiled (tests/support/fuzz_round.py). What may happen: one clear line (BadInput,
status 2), rows that are dropped and counted, or the same result. A traceback, a hang, an
unclear message or a result that changed without a word ends this program with status 1.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "scripts" / "tiny")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if __name__ == "__main__":  # a test that imports this has its own logs to look into
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("LLAMAFACTORY_VERBOSITY", "ERROR")

import fuzz_answers  # noqa: E402, F401  registers its readers
import fuzz_data  # noqa: E402, F401
import fuzz_outside  # noqa: E402, F401
import fuzz_readers  # noqa: E402, F401
from fuzz_input import READERS, drive  # noqa: E402
from fuzz_round import COMMANDS, Round  # noqa: E402
from fuzz_tally import KINDS, Tally  # noqa: E402

IMPORTED_LATE = ("datasets", "transformers.models.auto.modeling_auto", "dice.tools.plan")


def fuzz(
    folder: Path, examples: int, seed: int, only: str = "", without: Iterable[str] = ()
) -> Iterator[Tally]:
    """The tallies of all readers and commands, or of those whose name holds `only`, one by one."""
    for module in IMPORTED_LATE:  # or the first reader to need one would seem to hang
        importlib.import_module(module)
    for name, reader in READERS.items():
        if only in name and name not in without:
            tally = Tally(name)
            drive(reader, tally, folder / "reader", examples, seed)
            yield tally
    commands = {name: command for name, command in COMMANDS.items() if only in name}
    finished = Round.make(folder / "round") if commands else None
    for name, command in commands.items():
        tally = Tally(name)
        finished.drive(command, tally, examples, seed)
        yield tally


def line(*cells: str | int) -> str:
    """A line of the table: a name, then counts or their headings."""
    shown = (f"{cell:,}" if isinstance(cell, int) else cell for cell in cells[1:])
    return f"{cells[0]:<32}" + "".join(f"{cell:>10}" for cell in shown)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=300, help="inputs per reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers and commands whose name holds this")
    given = parser.parse_args()
    begun = time.monotonic()
    tallies = []
    print(line("reader", "tried", "refused", "accepted", "drops", *KINDS))
    with tempfile.TemporaryDirectory(prefix="dice-fuzz-") as folder:
        for tally in fuzz(Path(folder), given.examples, given.seed, given.only):
            tallies.append(tally)
            faults = (len(tally.faults[kind]) for kind in KINDS)
            print(
                line(tally.name, tally.tried, tally.refused, tally.accepted, tally.drops, *faults), flush=True
            )
    found = [(tally.name, kind, case) for tally in tallies for kind in KINDS for case in tally.faults[kind]]
    for name, kind, case in found[:20]:
        print(f"\n{kind} in {name}: {case}")
    tried = sum(tally.tried for tally in tallies)
    print(f"\n{tried:,} inputs, {len(found)} faults, {time.monotonic() - begun:.0f} s")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
