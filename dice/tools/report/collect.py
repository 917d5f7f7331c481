"""What a run has left behind, as numbers: everything that its report shows but the texts of pairs."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dice.data.round import read_prompts, read_scores
from dice.errors import BadInput
from dice.pairing.table import Table
from dice.rewards.scoring import source_of
from dice.run import files
from dice.run.rows import Pair, Step
from dice.run.run import Run
from dice.run.stage import STAGES
from dice.stages.evaluate import Result
from dice.tools.benchmarks.results import Result as BenchmarkResult
from dice.tools.benchmarks.results import results as benchmark_results

# What a report reads of a stage that is done.
NEEDED = {
    "generate": (),
    "score": ("prompts.jsonl", "scores"),
    "pair": ("pairs.jsonl", "alpha.jsonl"),
    "train": ("curves.jsonl",),
}
# What it needs of a stage's manifest, and of that of pair.
MANIFEST = ("inputs", "recipe", "rows_in", "rows_out", "seconds")
PAIR_FIGURES = (
    "alpha",
    "correlation",
    "correlation_without_shaping",
    "length_difference",
    "length_difference_without_shaping",
)
# What is read of an entry of the trainer's log, where it is there; validation's begin with eval_.
LOGGED = ("loss", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "rewards/margins")


@dataclass(frozen=True)
class StageRecord:
    """A stage of a round, as far as it has come."""

    name: str
    manifest: dict[str, Any] | None  # None: not done
    begun: bool  # and not done
    failed: str  # why its last attempt failed, in one line; empty where none did

    @property
    def dropped(self) -> dict[str, int]:
        """Rows that it left out, by reason; reasons that nothing was dropped for are left out."""
        return {reason: n for reason, n in (self.manifest or {}).get("dropped", {}).items() if n}


@dataclass(frozen=True)
class Scored:
    """The N scored responses of a round, and its M pairs as indices into them."""

    rewards: np.ndarray  # (N,)
    lengths: np.ndarray  # (N,) in `unit`
    prompts: np.ndarray  # (N,) which prompt a response belongs to; ascending
    unit: str  # what alpha multiplies: chars or tokens
    chosen: np.ndarray  # (M,)
    rejected: np.ndarray  # (M,)


@dataclass(frozen=True)
class Round:
    """A round that has begun; what is not there yet is None or empty."""

    t: int
    reward_unit: str  # what rewards are counted in
    stages: dict[str, StageRecord]
    scored: Scored | None
    balance: np.ndarray | None  # (2, S): alphas, mean length differences
    curves: list[dict[str, float]]  # the trainer's log, by step
    gone: list[str]  # files that a finished stage wrote and that are not there any more

    @property
    def paired(self) -> bool:
        """Whether its pairs can be read."""
        return bool(self.stages["pair"].manifest) and "pairs.jsonl" not in self.gone

    def manifest(self, stage: str) -> dict[str, Any]:
        """A stage's manifest; empty while it is not done."""
        return self.stages[stage].manifest or {}

    @property
    def finished(self) -> bool:
        return all(record.manifest for record in self.stages.values())


@dataclass(frozen=True)
class Collected:
    """A run as its report shows it."""

    run: Run
    rounds: list[Round]
    evaluation: StageRecord | None  # None: the recipe has no judge
    results: list[Result]
    benchmarks: list[BenchmarkResult]

    def missing(self) -> list[str]:
        """What a finished run would have and this one has not, in words."""
        found, begun = [], {done.t: done for done in self.rounds}
        for done in self.rounds:
            records = [record for record in done.stages.values() if not record.manifest]
            found += [f"round {done.t}: {_unfinished(record)}" for record in records]
            found += [f"round {done.t}: {name} is gone; what it would show is left out" for name in done.gone]
        if ahead := [str(t) for t in range(1, self.run.recipe.rounds + 1) if t not in begun]:
            found.append(f"not begun: round {', '.join(ahead)}")
        if self.evaluation and not self.evaluation.manifest:
            found.append(f"evaluation: {_unfinished(self.evaluation)}")
        judged = {result.model for result in self.results}
        trained = [f"round-{done.t}" for done in self.rounds if done.stages["train"].manifest]
        if judged and (left := [model for model in trained if model not in judged]):
            found.append(f"not judged yet: {', '.join(left)}")
        return found

    def warnings(self) -> list[tuple[str, str]]:
        """(where, what) of everything that a stage found worth a look."""
        records = [(f"round {r.t}, {s.name}", s.manifest) for r in self.rounds for s in r.stages.values()]
        if self.evaluation:
            records.append(("evaluation", self.evaluation.manifest))
        return [(where, text) for where, manifest in records for text in (manifest or {}).get("warnings", [])]


def collect(run: Run) -> Collected:
    """The numbers of a run. Raises BadInput where no round has begun, and for rows that can't be read."""
    rounds = [_round(run, t) for t in range(1, run.recipe.rounds + 1)]
    rounds = [r for r in rounds if any(s.manifest or s.begun or s.failed for s in r.stages.values())]
    if not rounds:
        raise BadInput(f"{run.path}: no round has begun, so there is nothing to report; `iter.sh` runs them")
    benchmarks = benchmark_results(run)
    if not run.recipe.evaluate.judge:
        return Collected(run, rounds, None, [], benchmarks)
    evaluation = _record(run.path / "evaluate", "evaluate")
    return Collected(run, rounds, evaluation, _results(run, evaluation.manifest or {}), benchmarks)


def _results(run: Run, manifest: dict[str, Any]) -> list[Result]:
    try:
        return [Result(**row) for row in manifest.get("results", [])]
    except TypeError as error:
        path = run.path / "evaluate" / "evaluate.manifest.json"
        raise BadInput(f"{path}: its results are not those of an evaluation ({error})") from None


def _record(folder: Path, name: str) -> StageRecord:
    path = folder / f"{name}.manifest.json"
    if manifest := files.read_json(path):
        for key in (*MANIFEST, *(PAIR_FIGURES if name == "pair" else ())):
            if key not in manifest:
                raise BadInput(f"{path}: {key!r} is missing, so it is no manifest of {name}")
        return StageRecord(name, manifest, begun=False, failed="")
    error = str((files.read_json(folder / f"{name}.failed.json") or {}).get("error", ""))
    return StageRecord(name, None, (folder / f"{name}.started.json").exists(), error.partition("\n")[0])


def _unfinished(record: StageRecord) -> str:
    if record.failed:
        return f"{record.name} failed: {record.failed}"
    return f"{record.name} was begun and is not done" if record.begun else f"{record.name} is to do"


def _round(run: Run, t: int) -> Round:
    folder = run.round_dir(t)
    stages = {name: _record(folder, name) for name in STAGES}
    done = {name for name in STAGES if stages[name].manifest}
    gone = sorted(name for stage in done for name in NEEDED[stage] if not _is_there(folder / name))

    def readable(stage: str) -> bool:
        return stage in done and not set(NEEDED[stage]) & set(gone)

    scored = _scored(run, t, stages, readable("pair")) if readable("score") else None
    balance = None
    if readable("pair"):
        balance = _balance(folder / "alpha.jsonl")
    curves = _curves(folder / "curves.jsonl") if readable("train") else []
    return Round(t, source_of(run.recipe).unit, stages, scored, balance, curves, gone)


def _is_there(path: Path) -> bool:
    """Whether there is a file, or a folder with shards."""
    return path.is_file() or bool(files.shards(path))


def _balance(path: Path) -> np.ndarray:
    steps = [(step.alpha, step.length_difference) for step in files.read_rows(path, Step)]
    if not steps:
        raise BadInput(f"{path}: empty; `pair` writes the length difference at one alpha at least")
    return np.array(steps).T


def _curves(path: Path) -> list[dict[str, float]]:
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            raise BadInput(f"{path}:{number}: not JSON ({error})") from None
        if not isinstance(entry, dict) or "step" not in entry:
            raise BadInput(f"{path}:{number}: not an entry of the trainer's log, which has a step")
        for key in ("step", *LOGGED, *(f"eval_{key}" for key in LOGGED)):
            if key in entry and type(entry[key]) not in (int, float):
                raise BadInput(f"{path}:{number}: {key} is {entry[key]!r:.40}, not a number")
        entries.append(entry)
    return entries


def _scored(run: Run, t: int, stages: dict[str, StageRecord], paired: bool) -> Scored:
    folder = run.round_dir(t)
    ids = [prompt.prompt_id for prompt in read_prompts(folder / "prompts.jsonl")]
    generated, settings = stages["generate"].manifest, stages["pair"].manifest
    samples = generated["recipe"]["generate"]["samples"] if generated else run.recipe.generate.samples
    unit = settings["recipe"]["pair"]["length"] if settings else run.recipe.pair.length
    table = read_scores(folder / "scores", ids, samples)
    chosen, rejected = _places(folder / "pairs.jsonl", table) if paired else (np.zeros(0, int),) * 2
    # From places in the table, (P, K), to places among those of its samples that were scored.
    index = np.cumsum(table.present.ravel()) - 1
    prompts, _ = np.nonzero(table.present)
    lengths = table.lengths(unit)[table.present].astype(float)
    return Scored(table.rewards[table.present], lengths, prompts, unit, index[chosen], index[rejected])


def _places(path: Path, table: Table) -> tuple[np.ndarray, np.ndarray]:
    """Where the chosen and the rejected of all pairs stand in the table, (M,) each, row by row."""
    samples = table.present.shape[1]
    places = []
    for number, pair in enumerate(files.read_rows(path, Pair), 1):
        row, columns = table.row_of.get(pair.prompt_id), (pair.chosen_sample, pair.rejected_sample)
        if row is None or not all(0 <= c < samples and table.present[row, c] for c in columns):
            raise BadInput(f"{path}:{number}: a pair of responses that were not scored")
        places.append([row * samples + column for column in columns])
    return tuple(np.array(places, int).reshape(-1, 2).T)
