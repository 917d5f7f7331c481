"""What a benchmark is, with the options of one evaluation, and one model's part of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dice.errors import counted
from dice.recipe.keys import Recipe
from dice.rewards.openai_client import Server
from dice.run.files import write_rows
from dice.run.run import Run
from dice.run.stage import Stage
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks.questions import Decoding, HubFile, Question

ASSUMED_CHARS = 2000  # of an answer, where there is none yet; chat models' answers have about as many
CHARS_PER_TOKEN = 4
Row = dict[str, Any]  # of a benchmark's file


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
    tasks: tuple[str, ...] = ()  # of lm_eval: names, and paths of task files


@dataclass(frozen=True)
class Reply:
    """A model's answer to one turn."""

    text: str
    n_tokens: int  # by the model's own tokenizer, the end-of-turn token included
    cut_off: bool  # whether it ended at the length limit


@dataclass(frozen=True)
class Cost:
    """What a judge is asked about one model's answers; of tokens it is an estimate, four characters each."""

    requests: int
    tokens_in: int
    tokens_out: int  # at most


class Benchmark:
    """A benchmark's questions and its own way with them; each benchmark is a class that says how it differs.

    Raises BadInput where the questions can't be had or are those of another version.
    """

    name: str  # on the command line and of the benchmark's folder
    title: str
    source: HubFile  # of the questions
    columns: dict[str, type]  # that a row of the question file must have
    hint = ""  # ends the message about a row without them
    key: str  # the column that tells questions apart
    versions: dict[int, str]  # by the number of questions; "" where there is only one version
    answers_in = "model_answer"  # the file or folder with the answers
    is_own: bool  # whether the questions are a try-out's, from a shorter file of the user's
    is_graded = False  # whether the score is a grade, 1 to 10; else it is a win rate, 0 to 1
    write_rows: Callable[[Path, Any], None] = staticmethod(write_rows)  # of the answers

    def __init__(self, options: Options) -> None:
        self.options = options
        self.path = files.fetch(options.questions, self.source, "questions")
        rows = files.read_rows(self.path, self.columns, self.hint)
        items = [self.question(number, where, row) for number, (where, row) in enumerate(rows)]
        self.is_own = bool(options.first and options.questions) and 0 < len(items) < min(self.versions)
        known = self.versions if not self.is_own else {len(items): self.version_of(items)}
        self.version = files.check_count(self.path, len(items), known, self.title)
        files.check_distinct(self.path, (str(row[self.key]) for _, row in rows))
        self.notes = self.question_notes(items)  # what of the questions is not the benchmark's own
        self.notes += [files.UNCOMPARED] if options.questions else []
        self.notes += (
            [f"{counted(len(items), 'question')}, fewer than the benchmark has"] if self.is_own else []
        )
        self.questions = items[: options.first]

    def question(self, number: int, where: str, row: Row) -> Question:
        """A row of the question file. Raises BadInput, naming `where`, for one that is no question."""
        raise NotImplementedError

    def version_of(self, items: list[Question]) -> str:
        """The version that questions are of, where their number does not tell."""
        return next(iter(self.versions.values()))

    def question_notes(self, items: list[Question]) -> list[str]:
        """What of the questions is not the benchmark's own. Raises BadInput for another benchmark's."""
        return []

    def decoding(self, recipe: Recipe) -> Decoding:
        """How the benchmark samples answers."""
        raise NotImplementedError

    @property
    def judge_model(self) -> str:
        """The judge that the benchmark's published figures are by."""
        raise NotImplementedError

    def answer_row(self, question: Question, generator: str, replies: list[Reply]) -> Row:
        """The answers to a question's turns in the benchmark's format."""
        raise NotImplementedError

    def answer_notes(self) -> list[str]:
        """What of the answers' file is not as the benchmark writes it."""
        return []

    def answers_file(self, generator: str) -> str:
        """The name of the file with the answers of the model that is called `generator`."""
        return f"{self.answers_in}/{generator}.jsonl"

    def cost(self) -> Cost:
        """What judging one model would cost. Raises BadInput for prompts or references of no use."""
        raise NotImplementedError

    def judge_stage(self, task: "Task") -> Stage:
        """The stage that has a model's answers judged. Raises BadInput where something for it is missing."""
        raise NotImplementedError


@dataclass(frozen=True)
class Task:
    """One model's part of a benchmark."""

    benchmark: Benchmark
    decoding: Decoding
    model: str  # SFT, DPO, round-1, ...
    server: Server | None  # the judge; None: answers only
    notes: tuple[str, ...] = ()  # what the options make different from the benchmark's own way
    anew: bool = False  # whether what the judge has said so far is asked again

    @property
    def name(self) -> str:
        """The benchmark with its version, and how much of it: a try-out has a folder of its own."""
        version, first = self.benchmark.version, self.benchmark.options.first
        return self.benchmark.name + (f"-{version}" if version else "") + (f"-first-{first}" if first else "")

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
        return self.folder(run) / self.benchmark.answers_file(self.generator(run))

    @property
    def questions(self) -> list[Question]:
        return self.benchmark.questions
