"""What a run has left behind, as numbers: everything that its report shows but the texts of pairs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dice.data.round import read_prompts, read_scores
from dice.errors import BadInput
from dice.pairing.table import Table
from dice.recipe.gates import failures
from dice.rewards.source import source_of
from dice.run import files
from dice.run.manifests import Manifest
from dice.run.rows import Pair, Step
from dice.run.run import Run
from dice.run.stage import Stage
from dice.run.state import Found, State
from dice.stages import agreement, evaluate
from dice.stages.evaluate import Result
from dice.stages.order import of_round
from dice.tools.benchmarks.results import Result as BenchmarkResult
from dice.tools.benchmarks.results import results as benchmark_results
from dice.tools.curves import read_curves

# What a report reads of a stage that is done.
NEEDED = {
    "generate": (),
    "score": ("prompts.jsonl", "scores"),
    "pair": ("pairs.jsonl", "alpha.jsonl"),
    "train": ("curves.jsonl",),
    "agree": (),
}
# What it needs of the figures of pair.
PAIR_FIGURES = (
    "alpha",
    "correlation",
    "correlation_without_shaping",
    "length_difference",
    "length_difference_without_shaping",
)


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
    stages: dict[str, Found]  # by name, in their order
    scored: Scored | None
    balance: np.ndarray | None  # (2, S): alphas, mean length differences
    curves: list[dict[str, float]]  # the trainer's log, by step
    gone: list[str]  # files that a finished stage wrote and that are not there any more

    @property
    def paired(self) -> bool:
        """Whether its pairs can be read."""
        return bool(self.stages["pair"].manifest) and "pairs.jsonl" not in self.gone

    def manifest(self, stage: str) -> Manifest | None:
        """A stage's manifest; None while it is not done."""
        return self.stages[stage].manifest

    @property
    def manifests(self) -> list[Manifest]:
        """The manifests of the stages that are done."""
        return [found.manifest for found in self.stages.values() if found.manifest]

    @property
    def finished(self) -> bool:
        return len(self.manifests) == len(self.stages)


@dataclass(frozen=True)
class Collected:
    """A run as its report shows it."""

    run: Run
    rounds: list[Round]
    evaluation: Found | None  # None: the recipe has no judge
    results: list[Result]
    benchmarks: list[BenchmarkResult]

    def missing(self) -> list[str]:
        """What a finished run would have and this one has not, in words."""
        found, begun = [], {done.t: done for done in self.rounds}
        for done in self.rounds:
            todo = {name: state for name, state in done.stages.items() if not state.manifest}
            found += [f"round {done.t}: {_unfinished(name, state)}" for name, state in todo.items()]
            found += [f"round {done.t}: {name} is gone; what it would show is left out" for name in done.gone]
        if ahead := [str(t) for t in range(1, self.run.recipe.rounds + 1) if t not in begun]:
            found.append(f"not begun: round {', '.join(ahead)}")
        if self.evaluation and not self.evaluation.manifest:
            found.append(f"evaluation: {_unfinished('evaluate', self.evaluation)}")
        judged = {result.model for result in self.results}
        trained = [f"round-{done.t}" for done in self.rounds if done.stages["train"].manifest]
        if judged and (left := [model for model in trained if model not in judged]):
            found.append(f"not judged yet: {', '.join(left)}")
        return found

    @property
    def manifests(self) -> list[tuple[str, Manifest]]:
        """The manifests of all stages that are done, each with where it stands: "round 1, pair"."""
        before = agreement.STAGE.manifest(self.run, 0)
        found = [("before round 1, agree", before)] if before else []
        found += [
            (f"round {r.t}, {manifest.stage}", manifest) for r in self.rounds for manifest in r.manifests
        ]
        if self.evaluation and self.evaluation.manifest:
            found.append(("evaluation", self.evaluation.manifest))
        return found

    def warnings(self) -> list[tuple[str, str]]:
        """(where, what) of closed gates, and of everything that a stage found worth a look."""
        found = []
        for where, manifest in self.manifests:
            closed = failures(self.run.recipe, manifest.figures)
            found += [(where, f"gate closed: {text}") for text in closed]
            found += [(where, text) for text in manifest.warnings]
        return found


def collect(run: Run) -> Collected:
    """The numbers of a run. Raises BadInput where no round has begun, and for rows that can't be read."""
    rounds = [_round(run, t) for t in range(1, run.recipe.rounds + 1)]
    rounds = [r for r in rounds if any(found.state is not State.NEVER_BEGUN for found in r.stages.values())]
    if not rounds:
        raise BadInput(f"{run.path}: no round has begun, so there is nothing to report; `iter.sh` runs them")
    benchmarks = benchmark_results(run)
    if not run.recipe.evaluate.judge:
        return Collected(run, rounds, None, [], benchmarks)
    found = _state(evaluate.STAGE, run, 0)
    return Collected(run, rounds, found, _results(run, found.manifest), benchmarks)


def _results(run: Run, manifest: Manifest | None) -> list[Result]:
    try:
        return [Result(**row) for row in manifest.figures.get("results", [])] if manifest else []
    except TypeError as error:
        path = evaluate.STAGE.files(run, 0).manifest_path
        raise BadInput(f"{path}: its results are not those of an evaluation ({error})") from None


def _state(stage: Stage, run: Run, t: int) -> Found:
    """Which state a stage is in. Raises BadInput for a manifest that was changed or lacks what is shown."""
    found = stage.state(run, t)
    if found.unreadable:
        raise BadInput(found.unreadable)
    for key in PAIR_FIGURES if found.manifest and stage.name == "pair" else ():
        if key not in found.manifest.figures:
            path = stage.files(run, t).manifest_path
            raise BadInput(f"{path}: {key!r} is missing, so it is no manifest of {stage.name}")
    return found


def _unfinished(name: str, found: Found) -> str:
    if found.state is State.FAILED:
        return f"{name} failed: {found.error.splitlines()[0] if found.error else 'unknown'}"
    return f"{name} was begun and is not done" if found.state is State.BEGUN else f"{name} is to do"


def _round(run: Run, t: int) -> Round:
    folder = run.round_dir(t)
    stages = {stage.name: _state(stage, run, t) for stage in of_round(run)}
    done = {name for name, found in stages.items() if found.manifest}
    gone = sorted(name for stage in done for name in NEEDED[stage] if not _is_there(folder / name))

    def readable(stage: str) -> bool:
        return stage in done and not set(NEEDED[stage]) & set(gone)

    scored = _scored(run, t, stages, readable("pair")) if readable("score") else None
    balance = None
    if readable("pair"):
        balance = _balance(folder / "alpha.jsonl")
    curves = read_curves(folder / "curves.jsonl") if readable("train") else []
    return Round(t, source_of(run.recipe).unit, stages, scored, balance, curves, gone)


def _is_there(path: Path) -> bool:
    """Whether there is a file, or a folder with shards."""
    return path.is_file() or bool(files.shards(path))


def _balance(path: Path) -> np.ndarray:
    steps = [(step.alpha, step.length_difference) for step in files.read_rows(path, Step)]
    if not steps:
        raise BadInput(f"{path}: empty; `pair` writes the length difference at one alpha at least")
    return np.array(steps).T


def _scored(run: Run, t: int, stages: dict[str, Found], paired: bool) -> Scored:
    folder = run.round_dir(t)
    ids = [prompt.prompt_id for prompt in read_prompts(folder / "prompts.jsonl")]
    generated, settings = stages["generate"].manifest, stages["pair"].manifest
    samples = generated.recipe["generate"]["samples"] if generated else run.recipe.generate.samples
    unit = settings.recipe["pair"]["length"] if settings else run.recipe.pair.length
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
