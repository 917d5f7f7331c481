"""A benchmark from beginning to end: questions, every model's answers, judgments, a table."""

import importlib
import json
from dataclasses import replace
from typing import Any

from dice.errors import BadInput
from dice.launch.console import say
from dice.rewards.openai_client import Server, environment
from dice.run.run import Run
from dice.run.state import StageFiles
from dice.stages.evaluate import models
from dice.stages.order import execute
from dice.tools.benchmarks import answers, judging, results
from dice.tools.benchmarks.questions import UNCOMPARED, Decoding, Questions
from dice.tools.benchmarks.results import Result
from dice.tools.benchmarks.task import Options, Task

NAMES = ("alpaca_eval2", "arena_hard", "mt_bench")  # each a module of this package


def evaluate(run: Run, name: str, options: Options, force: bool = False) -> list[Result]:
    """Answer a benchmark's questions with the models of a run and have them judged; print a table.

    Without OPENAI_BASE_URL and OPENAI_API_KEY nothing is judged. `force`: what was done for other models,
    questions or options is done again, and a judge that came to no score is asked everything again. Raises
    BadInput for an unknown benchmark, model or option, and for a question file of another version;
    StageFailed for a judge that does not answer.
    """
    if name not in NAMES:
        raise BadInput(f"--benchmark is {name!r}; there are {', '.join(NAMES)}")
    benchmark = importlib.import_module(f"dice.tools.benchmarks.{name}")
    names = _chosen(run, options)
    questions = benchmark.read_questions(options)
    if options.questions:
        questions = replace(questions, notes=(*questions.notes, UNCOMPARED))
    if options.first:
        questions = replace(questions, items=questions.items[: options.first])
    decoding = _decoding(benchmark.decoding(run.recipe), options)
    server = _server(benchmark, questions, options)
    notes = _notes(benchmark, questions, options)
    tasks = [Task(benchmark, questions, decoding, options, model, server, notes) for model in names]
    if server and force:
        tasks = [replace(task, anew=not _judged(task, run)) for task in tasks]
    own_stage = getattr(benchmark, "stage", judging.stage)
    judges = [own_stage(task) for task in tasks] if server else []  # before anything is sampled
    for task in tasks:
        execute(answers.stage(task), run, 0, force)
    if not server:
        say(
            f"judge     not asked: neither OPENAI_BASE_URL nor OPENAI_API_KEY is set; the answers are in "
            f"{tasks[0].folder(run).parent}",
            mark="!",
        )
        return []
    for stage in judges:
        execute(stage, run, 0, force)
    found = [
        result
        for result in results.results(run)
        if (result.benchmark, result.judge) == (tasks[0].name, server.model) and result.model in names
    ]
    results.show(found)
    return found


def _judged(task: Task, run: Run) -> bool:
    """Whether a model's answers have a score."""
    return StageFiles(task.judged_folder(run), "judge").state().was_done


def parse(given: dict[str, Any]) -> Options:
    """Options as the command line gives them: fire makes numbers, tuples and dicts of what looks like them.

    Raises BadInput for a value that can't be.
    """
    values = {key: value for key, value in given.items() if value is not None}
    for key in ("questions", "references", "judge", "judge_prompts", "length_data"):
        if key in values:
            value = values[key]
            values[key] = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    if isinstance(values.get("judge_options"), str):
        values["judge_options"] = _json(values["judge_options"])
    if "models" in values:
        value = values["models"]
        values["models"] = tuple(value if isinstance(value, tuple | list) else str(value).split(","))
    options = Options(**values)
    _check(options)
    return options


def _json(text: str) -> Any:
    """What JSON says; the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check(options: Options) -> None:
    """Raises BadInput for options that can't be."""
    temperature = options.temperature
    if temperature is not None and not (isinstance(temperature, int | float) and 0 <= temperature <= 2):
        raise BadInput(f"--temperature is {temperature!r}; it must be between 0 and 2")
    for key in ("first", "max_new_tokens", "concurrency"):
        value = getattr(options, key)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise BadInput(f"--{key} is {value!r}; it must be a whole number of at least 1")
    if not isinstance(options.judge_options, dict):
        raise BadInput(f"--judge_options is {options.judge_options!r}; it must be a JSON object")
    for key in ("model", "messages"):
        if key in options.judge_options:
            raise BadInput(f"--judge_options has {key!r}, which it can't say; --judge names the model")


def _chosen(run: Run, options: Options) -> list[str]:
    """The models to evaluate: the policy that the run starts from and every finished round's model."""
    known = models(run)
    if not options.models:
        return [name for name in known if name != "SFT"]
    for name in options.models:
        if name not in known:
            raise BadInput(f"--models: {run.path} has no model {name!r}; there are {', '.join(known)}")
    return [name for name in known if name in options.models]


def _decoding(own: Decoding, options: Options) -> Decoding:
    """The benchmark's way of sampling with what the user wants instead."""
    changes: dict[str, Any] = {}
    if options.temperature is not None:
        changes |= {"temperature": float(options.temperature), "by_category": {}}
    if options.max_new_tokens is not None:
        changes["max_new_tokens"] = options.max_new_tokens
    return replace(own, **changes)


def _server(benchmark: Any, questions: Questions, options: Options) -> Server | None:
    """The judge of the environment; None where it names none."""
    found = environment()
    if found is None:
        return None
    url, key = found
    return Server(options.judge or benchmark.judge_model(questions), url, key, options.concurrency)


def _notes(benchmark: Any, questions: Questions, options: Options) -> tuple[str, ...]:
    """What of this evaluation is not the benchmark's own."""
    notes = []
    if options.first:
        notes.append(
            f"a try-out on the first {options.first} questions: not comparable with published figures"
        )
    own = benchmark.judge_model(questions)
    if options.judge and options.judge != own:
        notes.append(f"judge {options.judge} instead of {own}")
    if options.temperature is not None:
        notes.append(f"answers at temperature {options.temperature:g} instead of the benchmark's")
    if options.max_new_tokens is not None:
        notes.append(f"answers of at most {options.max_new_tokens} tokens instead of the benchmark's")
    return tuple(notes)
