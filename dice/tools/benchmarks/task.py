"""What one model has to do in a benchmark, and what a kind of benchmark must know."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from dice.recipe.keys import Recipe
from dice.rewards.openai_client import Server
from dice.run.rows import Judgment, Message
from dice.run.run import Run
from dice.tools.benchmarks.questions import Decoding, Question, Questions


@dataclass(frozen=True)
class Options:
    """What a user may say of an evaluation; files are the Hub's where none is given."""

    questions: str | None = None  # the benchmark's question file
    references: str | None = None  # answers to compare with, separated by commas
    judge: str | None = None  # the judging model's name; default: the benchmark's own
    judge_prompts: str | None = None  # the benchmark's own prompts, in its own format
    judge_options: dict[str, Any] = field(default_factory=dict)  # more of each request; None leaves a key out
    concurrency: int = 8  # requests to the judge at once
    models: tuple[str, ...] = ()  # default: all but SFT
    first: int | None = None  # so many questions only, for a try-out
    temperature: float | None = None  # instead of the benchmark's
    max_new_tokens: int | None = None  # instead of the benchmark's
    length_data: str | None = None  # AlpacaEval's df_gamed.csv


@dataclass(frozen=True)
class Reply:
    """A model's answer to one turn."""

    text: str
    n_tokens: int  # by the model's own tokenizer, the end-of-turn token included
    cut_off: bool  # whether it ended at the length limit


@dataclass(frozen=True)
class Verdicts:
    """What the judge made of one model's answers."""

    score: float  # a win rate, 0 to 1, or a grade, 1 to 10
    error: float | None  # its standard error over questions
    judgments: int  # that it rests on
    parts: dict[str, float]  # the same by category, turn, ...
    length_controlled: float | None = None  # a win rate


Asked = tuple[str, list[Message]]  # the name of a judgment, and what the judge is asked for it
Row = dict[str, Any]  # of a benchmark's file
References = dict[str, Any]  # by question


class Benchmark(Protocol):
    """A kind of benchmark: a module of this package."""

    NAME: str  # of the command line and of its folder
    TITLE: str
    ANSWERS: str  # the file or folder that its answers go to
    GRADES: bool  # whether the score is a grade of 1 to 10; else it is a win rate

    def read_questions(self, options: Options) -> Questions:
        """Its questions. Raises BadInput where they can't be had or are those of another version."""
        ...

    def decoding(self, recipe: Recipe) -> Decoding:
        """How the benchmark samples answers."""
        ...

    def judge_model(self, questions: Questions) -> str:
        """The judge that the benchmark's published figures are by."""
        ...

    def answers_name(self, generator: str) -> str:
        """The name of the file with the answers."""
        ...

    def write_answers(
        self, path: Path, generator: str, questions: Questions, answers: list[list[Reply]]
    ) -> list[str]:
        """Write answers (for each question, its turns') in the benchmark's format; returns notes."""
        ...


class JudgedHere(Benchmark, Protocol):
    """A benchmark whose verdicts DICE reads itself; one without these has a `stage` of its own.

    References are answers that the judge sees beside the model's.
    """

    def Prompts(self, path: str | None) -> Any:
        """What the judge is asked, DICE's wording or a file's; its `notes` say what is not the benchmark's.

        Raises BadInput for a file of no use.
        """
        ...

    def references(self, questions: Questions, options: Options) -> tuple[References, list[Path]]:
        """The references and their files. Raises BadInput where one is missing."""
        ...

    def reference_notes(self, questions: Questions, found: References) -> list[str]:
        """What of them is not the benchmark's own."""
        ...

    def judge_options(self, questions: Questions) -> dict[str, Any]:
        """What the benchmark's requests to its judge say beside model and messages."""
        ...

    def asked(self, questions: Questions, answers: list[Row], found: References, prompts: Any) -> list[Asked]:
        """All questions to the judge about one model's answers."""
        ...

    def read_verdict(self, text: str) -> str | float | None:
        """The verdict in a judge's text, None where there is none."""
        ...

    def score(self, questions: Questions, verdicts: dict[str, Any]) -> Verdicts:
        """The score from verdicts by the names of `asked`, of which a tenth may be missing."""
        ...

    def judgment_rows(
        self,
        task: "Task",
        generator: str,
        found: References,
        judged: dict[str, Judgment],
        asked_for: dict[str, list[Message]],
    ) -> Iterator[Row]:
        """Judgments in the benchmark's format."""
        ...


@dataclass(frozen=True)
class Task:
    """One model's part of a benchmark."""

    benchmark: Benchmark
    questions: Questions
    decoding: Decoding
    options: Options
    model: str  # SFT, DPO, round-1, ...
    server: Server | None  # the judge; None: answers only
    notes: tuple[str, ...] = ()  # what differs from the benchmark's own way
    anew: bool = False  # whether what the judge has said so far is asked again

    @property
    def name(self) -> str:
        """The benchmark with its version, and how much of it: a try-out has a folder of its own."""
        version = f"-{self.questions.version}" if self.questions.version else ""
        first = f"-first-{self.options.first}" if self.options.first else ""
        return f"{self.benchmark.NAME}{version}{first}"

    def folder(self, run: Run, t: int = 0) -> Path:
        return run.path / "benchmarks" / self.name / self.model

    def judged_folder(self, run: Run, t: int = 0) -> Path:
        """Each judge has a folder of its own, so that they can be compared."""
        safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.server.model)
        return self.folder(run) / f"judged-by-{safe}"

    def generator(self, run: Run) -> str:
        """What the model is called in the benchmark's files."""
        return f"{run.path.name}-{self.model}"

    def answers_path(self, run: Run) -> Path:
        return self.folder(run) / self.benchmark.answers_name(self.generator(run))

    @property
    def items(self) -> list[Question]:
        return self.questions.items
