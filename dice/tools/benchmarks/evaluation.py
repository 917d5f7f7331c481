"""A benchmark from beginning to end: questions, every model's answers, judgments, a table."""

import json
from dataclasses import replace
from typing import Any

from dice.errors import BadInput
from dice.launch.console import say
from dice.recipe.keys import Recipe
from dice.rewards.openai_client import Server, environment
from dice.run.run import Run
from dice.run.state import StageFiles
from dice.stages.evaluate import models
from dice.stages.order import execute
from dice.tools.benchmarks import answers, harness, results
from dice.tools.benchmarks.alpaca_eval2 import AlpacaEval2
from dice.tools.benchmarks.arena_hard import ArenaHard
from dice.tools.benchmarks.mt_bench import MtBench
from dice.tools.benchmarks.questions import Decoding
from dice.tools.benchmarks.results import Result
from dice.tools.benchmarks.task import Benchmark, Options, Task

BENCHMARKS = {benchmark.name: benchmark for benchmark in (AlpacaEval2, ArenaHard, MtBench)}


def evaluate(run: Run, name: str, options: Options, force: bool = False) -> list[Result]:
    """Answer a benchmark's questions with the models of a run and have them judged; print a table.

    lm_eval judges its tasks itself (`harness`). The other benchmarks are not judged without OPENAI_BASE_URL
    and OPENAI_API_KEY. `force`: what was done for other models, questions or options is done again, and a
    judge that came to no score is asked everything again. Raises BadInput for an unknown benchmark, model or
    option, and for a question file of another version; StageFailed for a judge that does not answer.
    """
    check(name, options)
    names = _chosen(run, options)
    if name == harness.NAME:
        return harness.evaluate(run, names, options, _notes(options), force)
    benchmark = BENCHMARKS[name](options)
    sampling, judge = decoding(benchmark, run.recipe), server(benchmark)
    notes = _notes(options, benchmark.judge_model)
    tasks = [Task(benchmark, sampling, model, judge, notes) for model in names]
    if judge and force:
        tasks = [replace(task, anew=not _is_judged(task, run)) for task in tasks]
    judges = [benchmark.judge_stage(task) for task in tasks if judge]  # before anything is sampled
    for stage in [*map(answers.stage, tasks), *judges]:
        execute(stage, run, 0, force)
    if not judge:
        say(
            f"judge     not asked: neither OPENAI_BASE_URL nor OPENAI_API_KEY is set; the answers are in "
            f"{tasks[0].folder(run).parent}",
            mark="!",
        )
        return []
    asked = (tasks[0].name, judge.model)
    found = [r for r in results.results(run) if (r.benchmark, r.judge) == asked and r.model in names]
    results.show(found)
    return found


def check(name: str, options: Options) -> None:
    """Raises BadInput for an unknown benchmark and for options that it has no use for."""
    if name not in (*BENCHMARKS, harness.NAME):
        raise BadInput(f"--benchmark is {name!r}; there are {', '.join([*BENCHMARKS, harness.NAME])}")
    if name == harness.NAME:
        harness.check(options)
    elif options.tasks:
        raise BadInput(f"--tasks is for --benchmark={harness.NAME}; {name} has one set of questions")
    if options.length_data and name != AlpacaEval2.name:
        raise BadInput(f"--length_data is for --benchmark={AlpacaEval2.name}; {name} has no use for it")


def _is_judged(task: Task, run: Run) -> bool:
    """Whether a model's answers have a score."""
    return StageFiles(task.judged_folder(run), "judge").state().was_done


def parse(given: dict[str, Any]) -> Options:
    """Options as the command line gives them: fire makes numbers, tuples and dicts of what looks like them.

    Raises BadInput for a value that can't be.
    """
    values = {key: value for key, value in given.items() if value is not None}
    for key in {"questions", "references", "judge", "judge_prompts", "length_data"} & values.keys():
        values[key] = ",".join(_words(values[key]))
    for key in {"models", "tasks"} & values.keys():
        values[key] = tuple(name for word in _words(values[key]) for name in word.split(","))
    if isinstance(values.get("judge_options"), str):
        values["judge_options"] = _json(values["judge_options"])
    options = Options(**values)
    _check(options)
    return options


def _words(value: Any) -> list[str]:
    """What is separated by commas, which fire may have taken apart."""
    return [*map(str, value if isinstance(value, tuple | list) else [value])]


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
    for name in options.models:
        if name not in known:
            raise BadInput(f"--models: {run.path} has no model {name!r}; there are {', '.join(known)}")
    return [name for name in known if (name in options.models if options.models else name != "SFT")]


def decoding(benchmark: Benchmark, recipe: Recipe) -> Decoding:
    """The benchmark's way of sampling with what the user wants instead."""
    options = benchmark.options
    changes: dict[str, Any] = {}
    if options.temperature is not None:
        changes |= {"temperature": float(options.temperature), "by_category": {}}
    if options.max_new_tokens is not None:
        changes["max_new_tokens"] = options.max_new_tokens
    return replace(benchmark.decoding(recipe), **changes)


def server(benchmark: Benchmark) -> Server | None:
    """The judge of the environment; None where it names none."""
    options, found = benchmark.options, environment()
    return Server(options.judge or benchmark.judge_model, *found, options.concurrency) if found else None


def _notes(options: Options, own: str | None = None) -> tuple[str, ...]:
    """What the options make different from the benchmark's own way; `own` is its own judge."""
    notes = []
    if options.first:
        notes.append(
            f"a try-out on the first {options.first} questions: not comparable with published figures"
        )
    if options.judge and options.judge != own:
        notes.append(f"judge {options.judge} instead of {own}")
    if options.temperature is not None:
        notes.append(f"answers at temperature {options.temperature:g} instead of the benchmark's")
    if options.max_new_tokens is not None:
        notes.append(f"answers of at most {options.max_new_tokens} tokens instead of the benchmark's")
    return tuple(notes)
