"""The judge stage: a judge is asked, what it says is kept, counted and averaged.

`JudgedHere` is a benchmark whose judge DICE asks itself, twice about each question. Judgments lie in
shards of ten, each rewritten as its judgments come, so a killed evaluation asks only for what it lacks. What
got no answer counts as unanswered, what can't be read as unreadable; both are asked again as long as there
is no score.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dice.errors import StageFailed
from dice.launch.progress import Bar
from dice.rewards.openai_client import Answer, ask_all
from dice.run.digests import file_digest
from dice.run.files import read_rows, remove, shard_path, shards, write_rows
from dice.run.rows import Judgment, Message
from dice.run.run import Run
from dice.run.stage import Outcome, Stage
from dice.run.state import StageFiles
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks.questions import Question
from dice.tools.benchmarks.results import Result, in_words
from dice.tools.benchmarks.task import ASSUMED_CHARS, CHARS_PER_TOKEN, Benchmark, Cost, Reply, Row, Task

SHARD = 10  # judgments
Asked = dict[str, list[Message]]  # what the judge is asked, by the judgment's name
Judged = tuple[list[Message], Judgment]  # what the judge was asked, and what it said
MOST_MISSING = 0.1  # share of the judgments, unanswered or unreadable, beyond which there is no score


@dataclass(frozen=True)
class Score:
    """What the judge made of one model's answers."""

    score: float  # a win rate, 0 to 1, or a grade, 1 to 10
    error: float | None  # its standard error over questions
    judgments: int  # that it rests on
    parts: dict[str, float]  # the same by category, turn, ...
    length_controlled: float | None = None  # a win rate


class JudgedHere(Benchmark):
    """A benchmark whose judge DICE asks: about each question twice, 0 and 1, in games or about turns.

    References are answers that the judge sees beside the model's. `prompts` makes what the judge is asked out
    of a file, or in DICE's words; its `notes` say what of that is not the benchmark's own.
    """

    prompts: Callable[[str | None], Any]

    def references(self) -> tuple[dict[str, Any], list[Path]]:
        """The references by question, and their files. Raises BadInput where one is missing."""
        raise NotImplementedError

    def reference_notes(self, references: dict[str, Any]) -> list[str]:
        """What of the references is not the benchmark's own."""
        return []

    def judge_options(self) -> dict[str, Any]:
        """What the benchmark's requests to its judge say beside model and messages."""
        raise NotImplementedError

    def ask(self, question: Question, answer: Row, reference: Any, prompts: Any, n: int) -> list[Message]:
        """What the judge is asked the n-th time about a row of the answers' file."""
        raise NotImplementedError

    @staticmethod
    def read_verdict(text: str) -> str | float | None:
        """The verdict in a judge's text, None where there is none."""
        raise NotImplementedError

    @staticmethod
    def score(questions: Sequence[Question], verdicts: dict[str, Any]) -> Score:
        """The score from verdicts by "id/0" and "id/1", of which a tenth may be missing."""
        raise NotImplementedError

    def judgment_rows(
        self, question: Question, both: list[Judged], reference: Any, judge: str, model: str
    ) -> list[Row]:
        """A question's two judgments in the benchmark's format."""
        raise NotImplementedError

    def cost(self) -> Cost:
        """Of every request, with an answer of x instead of the model's."""
        prompts, (references, _), made_up = (
            self.prompts(self.options.judge_prompts),
            self.references(),
            Reply("x" * ASSUMED_CHARS, 0, False),
        )
        texts = [
            message["content"]
            for question in self.questions
            for n in (0, 1)
            for message in self.ask(
                question,
                self.answer_row(question, "model", [made_up] * len(question.turns)),
                references.get(question.id),
                prompts,
                n,
            )
        ]
        requests = 2 * len(self.questions)
        longest = self.request_options().get("max_tokens", 0)
        return Cost(requests, sum(map(len, texts)) // CHARS_PER_TOKEN, requests * longest)

    def judge_stage(self, task: Task) -> Stage:
        """The stage that has a model's answers judged.

        Raises BadInput for prompts or references of no use.
        """
        prompts = self.prompts(self.options.judge_prompts)
        references, paths = self.references()
        notes = [*prompts.notes, *self.reference_notes(references)]

        def inputs(run: Run, t: int) -> dict[str, str]:
            read = {"answers": task.answers_path(run)}
            read |= {f"references {number}": path for number, path in enumerate(paths, 1)}
            if self.options.judge_prompts:
                read["judge_prompts"] = Path(self.options.judge_prompts)
            return {name: file_digest(path) for name, path in read.items()}

        def settings(run: Run, t: int) -> dict[str, Any]:
            return common_settings(task) | {"request": self.request_options()}

        def judge(run: Run, t: int) -> Outcome:
            answers = [row for _, row in files.read_rows(task.answers_path(run), {})]
            asked = {
                f"{question.id}/{n}": self.ask(question, row, references.get(question.id), prompts, n)
                for question, row in zip(self.questions, answers, strict=True)
                for n in (0, 1)
            }
            return self._judge(task, run, asked, references, notes)

        outputs, parts = ("judgments", "model_judgment"), ("judgments/part-*.jsonl",)
        return Stage("judge", inputs, settings, outputs, judge, task.judged_folder, parts=parts)

    def request_options(self) -> dict[str, Any]:
        """What every request to the judge says beside model and messages: not what a user gives as null."""
        said = {**self.judge_options(), **self.options.judge_options}
        return {key: value for key, value in said.items() if value is not None}

    def _judge(
        self, task: Task, run: Run, asked: Asked, references: dict[str, Any], notes: list[str]
    ) -> Outcome:
        folder, generator = task.judged_folder(run), task.generator(run)
        if task.anew:
            remove(folder / "judgments")
        judged = self._ask_all(task, folder / "judgments", asked)
        rows = []
        for question in self.questions:
            both = [(asked[name], judged[name]) for name in (f"{question.id}/0", f"{question.id}/1")]
            reference = references.get(question.id)
            rows += self.judgment_rows(question, both, reference, task.server.model, generator)
        write_rows(folder / "model_judgment" / f"{generator}.jsonl", rows)
        verdicts = {name: row.verdict for name, row in judged.items() if row.verdict is not None}
        failures = [row.failure for row in judged.values() if row.failure is not None]
        unread = [row.text for row in judged.values() if row.failure is None and row.verdict is None]
        reason, example = next(iter(failures), ""), next(iter(unread), "")
        check_enough(len(judged), len(failures), reason, len(unread), f"one of them: {example!r:.200}")
        scored = self.score(self.questions, verdicts)
        return outcome(task, run, scored, len(verdicts), len(unread), len(failures), notes)

    def _ask_all(self, task: Task, folder: Path, asked: Asked) -> dict[str, Judgment]:
        """Every judgment by its name; asked for is what is not there, or had no verdict before."""
        names, server = [*asked], replace(task.server, options=self.request_options())
        known = {row.name: row for path in shards(folder) for row in read_rows(path, Judgment)}
        judged = {name: known[name] for name in names if name in known and known[name].verdict is not None}
        missing = [at for at, name in enumerate(names) if name not in judged]

        def keep(number: int, answer: Answer) -> None:
            at = missing[number]
            judged[names[at]] = Judgment(names[at], answer.text, answer.value, answer.failure)
            shard = at // SHARD
            rows = [judged[name] for name in names[shard * SHARD : (shard + 1) * SHARD] if name in judged]
            write_rows(shard_path(folder, shard), rows)
            bar.update()

        with Bar("judge", "judgments", lambda: (len(judged), len(asked))) as bar:
            ask_all(server, [asked[names[at]] for at in missing], self.read_verdict, keep)
        return judged


def common_settings(task: Task) -> dict[str, Any]:
    """What every judge stage depends on."""
    return {"benchmark": task.name, "judge": task.server.model, "notes": [*task.notes]}


def check_enough(asked: int, unanswered: int, reason: str, unreadable: int, example: str) -> None:
    """Raises StageFailed where too few questions to the judge have a verdict for there to be a score."""
    if unanswered + unreadable <= MOST_MISSING * asked:
        return
    gaps = []
    if unanswered:
        gaps.append(f"left {unanswered:,} of {asked:,} questions unanswered ({reason})")
    if unreadable:
        gaps.append(f"answered {unreadable:,} of {asked:,} without a verdict that could be read ({example})")
    raise StageFailed(
        f"the judge {' and '.join(gaps)}; the others are kept: run the same command again to ask for these"
    )


def outcome(
    task: Task, run: Run, scored: Score, verdicts: int, unreadable: int, unanswered: int, notes: list[str]
) -> Outcome:
    """How a judge stage ends: the result for its manifest, and what is worth a look.

    The score may rest on fewer than all the `verdicts`.
    """
    answers = StageFiles(task.folder(run), "answers").manifest().figures
    result = Result(
        benchmark=task.name,
        model=task.model,
        judge=task.server.model,
        score=scored.score,
        is_grade=task.benchmark.is_graded,
        error=scored.error,
        length_controlled=scored.length_controlled,
        questions=len(task.questions),
        judgments=scored.judgments,
        unreadable=unreadable,
        unanswered=unanswered,
        mean_chars=answers["mean_chars"],
        cut_off=answers["cut_off"],
        questions_digest=files.digest(task.questions),
        parts=scored.parts,
        notes=[*task.notes, *task.benchmark.notes, *notes],
    )
    warnings = []
    if unreadable:
        warnings.append(f"{unreadable:,} judgments could not be read; they are left out")
    if unanswered:
        warnings.append(f"{unanswered:,} questions to the judge got no answer; they are left out")
    if alone := verdicts - scored.judgments:
        warnings.append(f"{alone:,} judgments are left out, since the other one of their question is")
    return Outcome(
        rows_in=len(task.questions),
        rows_out=result.judgments,
        summary=f"{task.model}: {in_words(result)}, {result.judgments:,} judgments",
        figures={"result": asdict(result)},
        warnings=warnings,
    )
