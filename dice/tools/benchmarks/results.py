"""The benchmark results of a run: for tables, `status` and the report."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from rich.table import Table

from dice.errors import BadInput, printable
from dice.launch.console import console, with_error
from dice.run.run import Run
from dice.run.state import StageFiles


@dataclass(frozen=True)
class Result:
    """One model in one benchmark, by one judge."""

    benchmark: str  # alpaca_eval2, arena_hard-v0.1, mt_bench, ...; ends with -first-N for a try-out
    model: str  # SFT, DPO, round-1, ...
    judge: str  # the judging model's name; lm_eval and its version
    score: float  # a win rate against the benchmark's baseline, 0 to 1, a mean grade, 1 to 10, or `metric`
    is_grade: bool
    error: float | None  # the score's standard error over questions
    length_controlled: float | None  # AlpacaEval 2's length-controlled win rate, 0 to 1
    questions: int
    judgments: int  # that the score rests on
    unreadable: int  # judgments without a verdict
    unanswered: int  # questions to the judge that got no answer
    mean_chars: float | None  # mean answer length in characters; None where nothing is written
    cut_off: int | None  # answers that ended at the length limit; None where nobody counts them
    questions_digest: str = ""  # sha256 of the questions asked, in their order
    parts: dict[str, float] = field(default_factory=dict)  # the score by category, turn, ...
    notes: list[str] = field(default_factory=list)  # what differs from the benchmark's own way
    metric: str = ""  # what lm_eval calls the score; "" for a win rate or a grade

    @property
    def kind(self) -> str:
        """What the score is, in words."""
        return self.metric or ("grade" if self.is_grade else "win rate")

    @property
    def by(self) -> str:
        """Who judged, in words."""
        return self.judge if self.metric else f"judge {self.judge}"


def results(run: Run) -> list[Result]:
    """What has been judged, by benchmark and judge, models in the order of the run.

    Raises BadInput for a manifest that was changed or holds no result.
    """
    order = ["SFT", "DPO", *(f"round-{t}" for t in range(1, run.recipe.rounds + 1))]
    found = []
    for folder in run.path.glob("benchmarks/*/*/judged-by-*"):
        judge = StageFiles(folder, "judge")
        if manifest := judge.manifest():
            try:
                found.append(msgspec.convert(manifest.figures.get("result"), Result))
            except msgspec.ValidationError as error:
                raise BadInput(f"{judge.manifest_path}: no benchmark result ({error})") from None
    rank = {name: index for index, name in enumerate(order)}
    return sorted(found, key=lambda r: (r.benchmark, r.judge, rank.get(r.model, len(rank)), r.model))


def in_words(result: Result) -> str:
    """A result in one line: "win rate 25.8% ± 1.4%, length-controlled 25.1%"."""
    rate = result.length_controlled
    controlled = "" if rate is None else f", length-controlled {rate:.1%}"
    return f"{result.kind} {score(result)}{controlled} ({result.by})"


def score(result: Result) -> str:
    """A result's score with its standard error; lm_eval's with as many digits as it prints."""
    form = ".4f" if result.metric else ".2f" if result.is_grade else ".1%"
    return with_error(result.score, result.error, form)


def remarks(shown: list[Result]) -> dict[str, list[str]]:
    """What to know of results beside their figures, once for all models that it is true of.

    By benchmark and judge: what differs from the benchmark's own way, and which judgments are missing.
    """
    found: dict[str, list[str]] = {}
    for result in shown:
        gaps = {"unreadable": result.unreadable, "unanswered": result.unanswered}
        missing = ", ".join(f"{count:,} {kind}" for kind, count in gaps.items() if count)
        lines = [*result.notes, *([f"{result.model}: judgments left out: {missing}"] if missing else [])]
        if lines:
            of_judge = found.setdefault(f"{result.benchmark}, {result.by}", [])
            of_judge += [line for line in lines if line not in of_judge]
    return found


def show(shown: list[Result]) -> None:
    """A table of one benchmark's results on the terminal, and what differs from the benchmark's own way."""
    controlled = any(result.length_controlled is not None for result in shown)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("model")
    headings = [next((r.kind for r in shown), "score"), *(["length-controlled"] if controlled else [])]
    for heading in [*headings, "mean length", "judgments"]:
        table.add_column(heading, justify="right")
    for result in shown:
        rate = "-" if result.length_controlled is None else f"{result.length_controlled:.1%}"
        cells: list[Any] = [result.model, score(result), *([rate] if controlled else [])]
        chars = "-" if result.mean_chars is None else f"{result.mean_chars:,.0f} characters"
        table.add_row(*cells, chars, f"{result.judgments:,}")
    console.print()
    console.print(table)
    for lines in remarks(shown).values():
        for line in lines:
            console.print(f"note: {printable(line)}")
