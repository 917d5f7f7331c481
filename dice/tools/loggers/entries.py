"""What loggers get of a run: the numbers of its manifests, its training curves and its pairs."""

import hashlib
import itertools
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dice.run import files
from dice.run.rows import Pair
from dice.run.run import Run
from dice.stages.order import stages_of
from dice.tools.benchmarks.results import results
from dice.tools.curves import read_curves

MODELS = {"SFT": -1, "DPO": 0}  # the rounds that they stand for, as in `Run.model`
COUNTS = ("rows_in", "rows_out", "dropped", "seconds")  # of every manifest, beside the stage's own figures
COLUMNS = (
    "prompt_id", "prompt", "chosen", "rejected", "chosen_reward", "rejected_reward", "chosen_shaped",
    "rejected_shaped",
)  # fmt: skip
MOST = 10_000  # pairs of a round: W&B shows no more rows of a table


@dataclass(frozen=True)
class Entry:
    """Figures at one point of an axis."""

    axis: str  # round; or global_step, the steps of training counted over all rounds
    step: int
    figures: dict[str, float]  # by GROUP/NAME
    pairs: Path | None = None  # the round's, where the figures are of its pairs

    @property
    def digest(self) -> str:
        """What tells entries apart."""
        content = json.dumps([self.axis, self.step, self.figures], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def entries_of(run: Run) -> list[Entry]:
    """What a run has come to so far, in its order. Raises BadInput for files that can't be read."""
    found, trained = [], 0
    for stage, t in stages_of(run):
        if not (manifest := stage.manifest(run, t)):
            continue
        if stage.name == "evaluate":
            rows = manifest.figures["results"]
            found += [Entry("round", _round(row["model"]), _numbers(row, "evaluate")) for row in rows]
            continue
        folder, counts = stage.folder(run, t), {key: getattr(manifest, key) for key in COUNTS}
        pairs = folder / "pairs.jsonl" if stage.name == "pair" else None
        found.append(Entry("round", t, _numbers(manifest.figures | counts, stage.name), pairs))
        if stage.name == "train":
            rows, before = read_curves(folder / "curves.jsonl"), trained
            for row in rows:
                trained = before + row.pop("step")
                found.append(Entry("global_step", trained, _numbers(row, "curves")))
    for result in results(run):
        group = f"{result.benchmark}/{result.judge.replace('/', '_')}"
        found.append(Entry("round", _round(result.model), _numbers(asdict(result), group)))
    return found


def _round(model: str) -> int:
    return MODELS[model] if model in MODELS else int(model.removeprefix("round-"))


def _numbers(found: dict[str, Any], group: str) -> dict[str, float]:
    """The numbers in nested dicts, by their keys joined with /, without what a logger refuses in names."""
    numbers = {}
    for key, value in found.items():
        name = re.sub(r"[^A-Za-z0-9_./-]", "", f"{group}/{key}".replace(" ", "_"))
        if isinstance(value, dict):
            numbers |= _numbers(value, name)
        elif type(value) in (int, float):
            numbers[name] = value
    return numbers


def table(path: Path) -> list[list[Any]]:
    """The first pairs of a round, each with the values of COLUMNS."""
    pairs = itertools.islice(files.read_rows(path, Pair), MOST)
    return [[_value(pair, name) for name in COLUMNS] for pair in pairs]


def _value(pair: Pair, name: str) -> Any:
    value = getattr(pair, name, None)
    if name == "prompt":  # with roles where there is more than the user's turn
        turns = [f"{message['role']}: {message['content']}" for message in pair.messages]
        value = "\n\n".join(turns) if len(turns) > 1 else pair.messages[0]["content"]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
