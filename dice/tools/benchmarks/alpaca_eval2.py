"""AlpacaEval 2: 805 instructions, each answer against GPT-4 Turbo's, judged by the package alpaca_eval.

The package asks the judge, weighs its verdicts by their probability, and computes the win rate and the
length-controlled one. DICE runs it as a program of its own (`annotate.py`) and keeps what it writes.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from dice.errors import BadInput, StageFailed
from dice.launch import processes
from dice.recipe.keys import Recipe
from dice.rewards.openai_client import REFUSALS, refusal
from dice.run.digests import file_digest
from dice.run.files import read_json, remove, write_array, write_json
from dice.run.run import Run
from dice.run.stage import Outcome, Stage
from dice.tools.benchmarks import judging
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks.questions import Decoding, HubFile, Question, Questions, of_recipe
from dice.tools.benchmarks.task import Options, Reply, Task, Verdicts

NAME, TITLE, ANSWERS, GRADES = "alpaca_eval2", "AlpacaEval 2", "model_outputs.json", False
BASELINE, OLDER_BASELINE = "gpt4_1106_preview", "text_davinci_003"
ANNOTATE = Path(__file__).with_name("annotate.py")
VERSION = "0.6.6"
RETRIES, TIMEOUT = 5, 180.0  # of each question to the judge; seconds for an attempt


def read_questions(options: Options) -> Questions:
    """The instructions, in a file that also has the baseline's outputs: alpaca_eval_gpt4_baseline.json."""
    path = files.fetch(
        options.questions, HubFile("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json"), "questions"
    )
    columns = {"instruction": str, "output": str, "generator": str, "dataset": str}
    rows = [row for _, row in files.read_rows(path, columns)]
    files.check_count(path, len(rows), {805: "the one version"}, TITLE)
    files.check_distinct(path, (row["instruction"] for row in rows))
    generators = sorted({row["generator"] for row in rows})
    if generators == [OLDER_BASELINE]:
        raise BadInput(
            f"{path}: these are AlpacaEval 1's, with outputs of {OLDER_BASELINE}; AlpacaEval 2 compares with "
            f"{BASELINE}: alpaca_eval_gpt4_baseline.json"
        )
    notes = () if generators == [BASELINE] else (f"baseline {', '.join(generators)} instead of {BASELINE}",)
    items = [
        Question(str(number), row["dataset"], (row["instruction"],), row) for number, row in enumerate(rows)
    ]
    return Questions("", items, path, notes)


def decoding(recipe: Recipe) -> Decoding:
    """The recipe's own: the benchmark leaves it to each model, and the paper samples as for training."""
    return of_recipe(recipe)


def judge_model(questions: Questions) -> str:
    return "gpt-4-1106-preview"


def answers_name(generator: str) -> str:
    return ANSWERS


def write_answers(path: Path, generator: str, questions: Questions, answers: list[list[Reply]]) -> list[str]:
    """The package's `model_outputs`: a JSON array, each instruction as in the question file."""
    write_array(
        path,
        (
            {
                "dataset": question.row["dataset"],
                "instruction": question.row["instruction"],
                "output": reply.text,
                "generator": generator,
            }
            for question, (reply,) in zip(questions.items, answers, strict=True)
        ),
    )
    return []


def stage(task: Task) -> Stage:
    """The stage that has one model's answers judged. Raises BadInput where the package is missing."""
    python = os.environ.get("ALPACA_EVAL_PYTHON") or sys.executable
    version = _package(python)
    if task.options.judge_prompts or task.options.references:
        raise BadInput("alpaca_eval2 has its prompts in the package and its baseline in the question file")
    length_data = task.options.length_data
    if length_data:
        files.local(length_data, "length_data")

    def inputs(run: Run, t: int) -> dict[str, str]:
        paths = {"answers": task.answers_path(run), "questions": task.questions.path}
        if length_data:
            paths["length_data"] = Path(length_data)
        return {name: file_digest(path) for name, path in paths.items()}

    def settings(run: Run, t: int) -> dict[str, Any]:
        own = {"benchmark": task.name, "judge": task.server.model, "notes": [*task.notes]}
        return {**own, "request": task.options.judge_options, "alpaca_eval": version}

    def judge(run: Run, t: int) -> Outcome:
        return _judge(task, run, python)

    outputs = ("annotations", "annotations.json", "metrics.json")
    parts = ("annotations/cache.json",)
    return Stage("judge", inputs, settings, outputs, judge, task.judged_folder, parts=parts)


def _package(python: str) -> str:
    """The version of alpaca_eval that a Python has. Raises BadInput where it has none."""
    code = "import importlib.metadata as m; print(m.version('alpaca_eval'))"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        raise BadInput(
            f"environment: ALPACA_EVAL_PYTHON is {python!r}, no program ({error.strerror})"
        ) from None
    if asked.returncode:
        raise BadInput(
            f"AlpacaEval 2 is judged by the package alpaca_eval, which {python} does not have; install it "
            f"there: pip install 'alpaca_eval=={VERSION}' (or set ALPACA_EVAL_PYTHON to a Python that has it)"
        )
    return asked.stdout.strip()


def _judge(task: Task, run: Run, python: str) -> Outcome:
    folder = task.judged_folder(run)
    baseline = folder / "annotations" / "baseline.json"
    write_array(baseline, (question.row for question in task.items))
    cache = "annotations/cache.json"
    for name in ("annotations.json", "metrics.json", *([cache] if task.anew else [])):
        remove(folder / name)
    settings = folder / "annotations" / "settings.json"
    write_json(
        settings,
        {
            "answers": str(task.answers_path(run)),
            "baseline": str(baseline),
            "judge": task.server.model,
            "options": task.options.judge_options,
            "concurrency": task.server.concurrency,
            "retries": RETRIES,
            "timeout": TIMEOUT,
            "length_data": task.options.length_data and str(Path(task.options.length_data).absolute()),
            "cache": str(folder / cache),
            "annotations": str(folder / "annotations.json"),
            "metrics": str(folder / "metrics.json"),
        },
    )
    key = task.server.key or "none"  # the package wants one, also for a server that does not
    env = {"OPENAI_API_KEY": key, "OPENAI_API_KEYS": key}
    env |= {name: task.server.url for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE")}  # the latter goes first
    env["OPENAI_CLIENT_CONFIG_PATH"] = os.devnull  # what else the package would ask
    log = folder / "logs" / "judge.log"
    command = [python, "-P", str(ANNOTATE), str(settings)]  # -P: it must not take DICE's modules for its own
    processes.run_logged(command, log, "judge", env=env)
    metrics = read_json(folder / "metrics.json")
    if metrics is None:
        raise StageFailed(f"alpaca_eval wrote no metrics; its log: {log}")
    if failure := metrics.get("failure"):
        if metrics["status"] in REFUSALS:
            raise BadInput(refusal(task.server.model, metrics["status"]))
        raise StageFailed(
            f"the judge does not answer ({failure}); what it answered before is kept: run the same command "
            "again once it is there"
        )
    return _outcome(task, run, metrics)


def _outcome(task: Task, run: Run, metrics: dict[str, Any]) -> Outcome:
    judgments, unanswered = int(metrics["n_total"]), metrics["unanswered"]
    unreadable = len(task.items) - judgments - unanswered
    judging.check_enough(
        len(task.items),
        unanswered,
        "rate limits, say",
        unreadable,
        "it must return the log-probabilities of m and M",
    )
    controlled = metrics.get("length_controlled_winrate")
    notes = [] if controlled is not None else [f"no length-controlled win rate: {metrics['uncontrolled']}"]
    error = metrics["standard_error"]
    scored = Verdicts(
        score=metrics["win_rate"] / 100,
        error=None if error is None else error / 100,
        judgments=judgments,
        parts={},
        length_controlled=None if controlled is None else controlled / 100,
    )
    return judging.outcome(task, run, scored, judgments, unreadable, unanswered, notes)
