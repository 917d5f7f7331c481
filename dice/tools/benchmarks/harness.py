"""Tasks of EleutherAI's harness, the package lm_eval, or task files of one's own, on the models of a run.

Each model's part of a task is a stage. The harness renders the questions, has the model answer them, and
scores the answers. DICE gives it the model as sampling loads it, in a process of its own
(`harness_worker.py`), and keeps what it writes.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from dice.errors import BadInput, StageFailed, counted, first_line, spelled
from dice.launch import processes
from dice.run.digests import file_digest, model_digest
from dice.run.files import read_json
from dice.run.run import Run
from dice.run.stage import Outcome, Stage, makers
from dice.stages.evaluate import models
from dice.stages.order import execute
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks import results
from dice.tools.benchmarks.harness_worker import TASK_FILES, TASKS, Asked
from dice.tools.benchmarks.results import Result
from dice.tools.benchmarks.task import Options

NAME = "lm_eval"  # of the benchmark, and of the package
TAKEN = ("tasks", "models", "questions", "first", "max_new_tokens")  # the options that it has a use for
FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")
UNCOMPARED = "the questions are those of --questions, which were not compared with the task's own"


@dataclass(frozen=True)
class Evaluation:
    """One model's part of one task."""

    task: str  # its name
    source: str  # what lm_eval finds it by: its name, or the path of a task file
    model: str  # SFT, DPO, round-1, ...
    version: str  # of lm_eval
    options: Options
    notes: tuple[str, ...]  # what the options make different from the task's own way

    @property
    def name(self) -> str:
        """The benchmark's: a try-out has a folder of its own."""
        first = self.options.first
        return f"{NAME}-{self.task}" + (f"-first-{first}" if first else "")

    @property
    def judge(self) -> str:
        return f"{NAME} {self.version}"

    def folder(self, run: Run, t: int = 0) -> Path:
        return run.path / "benchmarks" / self.name / self.model / f"judged-by-{NAME}-{self.version}"

    def asked(self, run: Run) -> Asked:
        """What the harness is asked for."""
        options, questions = self.options, self.options.questions
        path = str(Path(questions).absolute()) if questions else None
        own = (path, options.first, options.max_new_tokens, self.model, str(self.folder(run)))
        return Asked(str(run.path), str(Path.cwd()), [self.source], *own)

    def stage(self) -> Stage:
        """The stage that evaluates the model."""

        def inputs(run: Run, t: int) -> dict[str, str]:
            read = [*task_files(Path(self.source))] if self.source.endswith(TASK_FILES) else []
            digests = {f"task: {path.name}": file_digest(path) for path in read}
            if self.options.questions:
                digests["questions"] = file_digest(Path(self.options.questions))
            return {"model": model_digest(models(run)[self.model]), **digests}

        def settings(run: Run, t: int) -> dict[str, Any]:
            recipe, options = run.recipe, self.options
            own = {"benchmark": self.name, "lm_eval": self.version, "max_new_tokens": options.max_new_tokens}
            engine = recipe.generate.model_dump(include={"engine", "batch_tokens", "engine_args"})
            return {**own, "template": recipe.template, "dtype": recipe.dtype, "generate": engine}

        number = self.model.removeprefix("round-")
        needs = makers(int(number)) if number.isdigit() else []
        outputs = ("results.json", "samples.jsonl")
        return Stage(
            "judge", inputs, settings, outputs, lambda run, t: _run(self, run), self.folder,
            needs=lambda *_: needs,
        )  # fmt: skip


def evaluate(
    run: Run, names: list[str], options: Options, notes: tuple[str, ...], force: bool
) -> list[Result]:
    """Have the harness evaluate models of a run on tasks; print a table of each task.

    Where there are several tasks, all are loaded before the first model is. Raises BadInput without the
    package, for options that the harness has no use for, and for tasks or data that can't be had.
    """
    installed = version()
    notes += (UNCOMPARED,) if options.questions else ()
    sources = _sources(options)
    found = [
        Evaluation(task, source, model, installed, options, notes)
        for task, source in sources.items()
        for model in names
    ]
    stages = [each.stage() for each in found]
    if len(sources) > 1 and not all(stage.state(run, 0).was_done for stage in stages):
        every = replace(found[0].asked(run), tasks=[*sources.values()], model=None, folder="")
        _have_done(every, run.path / "benchmarks" / "logs" / f"{NAME}.log", "tasks")
    for stage in stages:
        execute(stage, run, 0, force)
    asked = {(each.name, each.judge, each.model) for each in found}
    done = [r for r in results.results(run) if (r.benchmark, r.judge, r.model) in asked]
    for name in dict.fromkeys(each.name for each in found):
        results.show([result for result in done if result.benchmark == name])
    return done


def version() -> str:
    """The version of lm_eval. Raises BadInput where it is not installed."""
    try:
        return metadata.version(NAME)
    except metadata.PackageNotFoundError:
        raise BadInput(
            f"--benchmark={NAME}: {sys.executable} has no package {NAME}; pip install -e '.[bench]' adds it"
        ) from None


def check(options: Options) -> None:
    """Raises BadInput for options that don't go with the harness, or with each other."""
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in TAKEN and value not in (field.default, {}):
            raise BadInput(f"--{field.name} has no meaning for {NAME}; it takes --{', --'.join(TAKEN)}")
    if not options.tasks:
        raise BadInput(f"--benchmark={NAME} needs --tasks=NAME[,NAME], such as --tasks=ifeval,gsm8k")
    if options.questions:
        files.local(options.questions, "questions")
        if len(options.tasks) > 1 or options.tasks[0].endswith(TASK_FILES):
            raise BadInput("--questions goes with one task of lm_eval's; a task file names its own data")


def loaded(folder: Path, options: Options) -> dict[str, int]:
    """Load tasks for the recipe.yaml in a folder; the number of questions of each, by its name.

    Raises BadInput for tasks or data that can't be had.
    """
    questions = options.questions and str(Path(options.questions).absolute())
    sources = _sources(options)
    asked = Asked(
        str(folder), str(Path.cwd()), [*sources.values()], questions, options.first, folder=str(folder)
    )
    _have_done(asked, folder / "log", "tasks")
    sizes = read_json(folder / TASKS)
    return {name: sizes[source] for name, source in sources.items()}


def _sources(options: Options) -> dict[str, str]:
    """What lm_eval finds each task by, its name or the path of a task file, by its name."""
    return {_name(task): _source(task) for task in options.tasks}


def _source(task: str) -> str:
    return str(Path(task).absolute()) if task.endswith(TASK_FILES) else task


def _name(task: str) -> str:
    """A task's name, of a task file what it says. Raises BadInput for what can be none."""
    name = read_task(files.local(task, "tasks")).get("task") if task.endswith(TASK_FILES) else task
    if not isinstance(name, str) or not re.fullmatch(r"[\w.:+-]+", name):
        where = f"{task}: `task:`" if name != task else "--tasks"
        raise BadInput(f"{where} is {spelled(name)}; it must be a task's name")
    return name


class _TaskLoader(yaml.SafeLoader):
    """Reads a task file and leaves the functions that it names alone."""


_TaskLoader.add_constructor("!function", lambda loader, node: node.value)


def read_task(path: Path) -> dict[str, Any]:
    """What a task file says. Raises BadInput for what is none."""
    try:
        said = yaml.load(path.read_text(encoding="utf-8"), _TaskLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: no task file ({first_line(error)})") from None
    if not isinstance(said, dict):
        raise BadInput(f"{path}: no task file; it must have keys, such as `task:`")
    return said


def task_files(path: Path) -> Iterator[Path]:
    """A task file, what it includes, and the code and data that they name, as far as these lie here."""
    said = read_task(path)
    yield path
    for included in _texts(said.get("include")):
        yield from task_files(path.parent / included)
    modules = FUNCTION.findall(path.read_text(encoding="utf-8"))
    named = [path.parent / f"{module.replace('.', '/')}.py" for module in modules]
    named += map(Path, _texts((said.get("dataset_kwargs") or {}).get("data_files")))
    yield from (file for file in dict.fromkeys(named) if file.is_file())


def _texts(value: Any) -> list[str]:
    """The texts in a value of YAML, however deep."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for each in inner for text in _texts(each)]


def _have_done(asked: Asked, log: Path, label: str) -> None:
    """Have a process of its own do something. Raises as `run_logged` does."""
    module, progress = f"{__package__}.harness_worker", str(log.with_suffix(".progress"))
    words = ["-m", "dice.launch.worker", module, progress, json.dumps(asdict(asked))]
    processes.run_logged([sys.executable, *words], log, label)


def _run(evaluation: Evaluation, run: Run) -> Outcome:
    folder = evaluation.folder(run)
    log = folder / "logs" / "judge.log"
    _have_done(evaluation.asked(run), log, "judge")
    found = read_json(folder / "results.json") or {}
    with (folder / "samples.jsonl").open(encoding="utf-8") as file:
        samples = [json.loads(line) for line in file]  # not by msgspec: log-probs may be infinite
    figures = found["results"][evaluation.task]
    parts = {key.removesuffix(",none"): value for key, value in figures.items() if _is_metric(key, value)}
    if not parts:
        raise StageFailed(f"{NAME} came to no figure for {evaluation.task}; its log: {log}")
    metric, score = next(iter(parts.items()))
    name, _, how = metric.partition(",")
    error = figures.get(f"{name}_stderr,{how or 'none'}")
    asked = dict.fromkeys((row["task"], row["doc_id"], row["doc_hash"]) for row in samples)
    said = [text for row in samples for replies in row["resps"] for text in replies if isinstance(text, str)]
    result = Result(
        benchmark=evaluation.name,
        model=evaluation.model,
        judge=evaluation.judge,
        score=score,
        is_grade=False,
        error=error if isinstance(error, float) else None,
        length_controlled=None,
        questions=len(asked),
        judgments=len(asked),
        unreadable=0,
        unanswered=0,
        mean_chars=sum(map(len, said)) / len(said) if said else None,
        cut_off=None,
        questions_digest=hashlib.sha256(json.dumps([*asked]).encode()).hexdigest(),
        parts=parts,
        notes=[*evaluation.notes],
        metric=metric,
    )
    summary = f"{evaluation.model}: {results.in_words(result)}, {counted(len(asked), 'question')}"
    return Outcome(len(asked), len(asked), summary, figures={"result": asdict(result)})


def _is_metric(key: str, value: Any) -> bool:
    """Whether an entry of the harness's results, "acc,none" say, is a figure and no standard error."""
    return "," in key and not key.partition(",")[0].endswith("_stderr") and isinstance(value, int | float)
