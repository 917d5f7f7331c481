"""The doctor on a benchmark: package, questions and judge, and what it would cost. Nothing is generated."""

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from dice.errors import BadInput, counted
from dice.recipe.keys import Recipe
from dice.recipe.load import resolved_yaml
from dice.rewards.openai_client import Answer, Server, ask_all
from dice.run import files
from dice.tools.benchmarks import alpaca_eval2, evaluation, harness
from dice.tools.benchmarks.judging import JudgedHere
from dice.tools.benchmarks.task import ASSUMED_CHARS, Benchmark, Options
from dice.tools.doctor.findings import FAULT, FINE, WARNING, Finding, Findings, Look

TRY = "Reply with the word yes."
PATIENCE = 30.0  # seconds for the judge's reply to it


def benchmark_checks(recipe: Recipe, name: str, options: Options) -> Iterator[Look]:
    """Everything that `evaluate --benchmark=NAME` will need, one by one."""
    models = len(options.models) or 1 + recipe.rounds
    if name == harness.NAME:
        yield "package", partial(_finding, "package", lambda: f"lm_eval {harness.version()}")
        if importlib.util.find_spec(harness.NAME):
            yield "questions", partial(_finding, "questions", partial(_tasks, recipe, options, models))
        return
    if name == alpaca_eval2.AlpacaEval2.name:
        python = alpaca_eval2.judge_python()
        yield "package", partial(_finding, "package", lambda: f"alpaca_eval {alpaca_eval2.package(python)}")
    made: list[Benchmark] = []

    def questions() -> str:
        made.append(evaluation.BENCHMARKS[name](options))
        told = [f"{counted(len(made[0].questions), 'question')} of {made[0].path}", *made[0].notes]
        return "; ".join(told)

    yield "questions", partial(_finding, "questions", questions)
    if made:
        yield "judge", partial(_judge, made[0])
        yield "cost", partial(_finding, "cost", partial(_cost, made[0], recipe, models))


def _finding(topic: str, examine: Callable[[], str]) -> Findings:
    try:
        yield Finding(FINE, topic, examine())
    except BadInput as error:  # which says what helps
        yield Finding(FAULT, topic, str(error))


def _judge(benchmark: Benchmark) -> Findings:
    """Does the judge answer, with this key, and take the options that it will be asked with?"""
    try:
        server = evaluation.server(benchmark)
        if server is None:
            told = (
                "neither OPENAI_BASE_URL nor OPENAI_API_KEY is set: answers are written, and nothing judged"
            )
            yield Finding(WARNING, "judge", told, "set them to those of a server that has the judge")
            return
        answer = _asked(benchmark, server)
    except BadInput as error:
        yield Finding(FAULT, "judge", str(error))
        return
    if answer.failure:
        told = f"{server.model!r} at OPENAI_BASE_URL does not answer: {answer.failure}"
        yield Finding(FAULT, "judge", told, "start the server, or correct the address or --judge_options")
    else:
        yield Finding(FINE, "judge", f"{server.model!r} answers, and takes the key if it wants one")


def _asked(benchmark: Benchmark, server: Server) -> Answer:
    """What the judge says to one short message, with the options of the benchmark's own requests."""
    is_ours = isinstance(benchmark, JudgedHere)
    options = benchmark.request_options() if is_ours else benchmark.options.judge_options
    once = Server(server.model, server.url, server.key, 1, 1, 1, PATIENCE, options=options)
    found: list[Answer] = []
    ask_all(once, [[{"role": "user", "content": TRY}]], lambda text: text, lambda _, told: found.append(told))
    return found[0]


def _cost(benchmark: Benchmark, recipe: Recipe, models: int) -> str:
    cost, longest = benchmark.cost(), evaluation.decoding(benchmark, recipe).max_new_tokens
    answers = models * sum(len(question.turns) for question in benchmark.questions)
    judge = benchmark.options.judge or benchmark.judge_model
    read, written = (f"{models * each:,}" for each in (cost.tokens_in, cost.tokens_out))
    return (
        f"{answers:,} answers of at most {longest:,} tokens ({counted(models, 'model')}); then "
        f"{models * cost.requests:,} requests to {judge}: about {read} tokens to read and at most {written} "
        f"to write, with answers of {ASSUMED_CHARS:,} characters"
    )


def _tasks(recipe: Recipe, options: Options, models: int) -> str:
    """Load the tasks, in a process of its own. Raises BadInput for tasks or data that can't be had."""
    with tempfile.TemporaryDirectory() as folder:
        files.write_text(Path(folder) / "recipe.yaml", resolved_yaml(recipe))
        sizes = harness.loaded(Path(folder), options)
    told = ", ".join(f"{name}: {counted(size, 'question')}" for name, size in sizes.items())
    total = models * sum(sizes.values())
    return f"{told}; {total:,} with {counted(models, 'model')}, answered and scored here, without a judge"
