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
from dice.tools.benchmarks.judging import Score
from dice.tools.benchmarks.questions import Decoding, HubFile, Question
from dice.tools.benchmarks.task import ASSUMED_CHARS, CHARS_PER_TOKEN, Benchmark, Cost, Reply, Row, Task

BASELINE, OLDER_BASELINE = "gpt4_1106_preview", "text_davinci_003"
ANNOTATE = Path(__file__).with_name("annotate.py")
VERSION = "0.6.6"
RETRIES, TIMEOUT = 5, 180.0  # of each question to the judge; seconds for an attempt
PROMPT_CHARS = 2000  # about, of the package's own words to the judge
CACHE = "annotations/cache.json"  # of the package: its judgments so far


class AlpacaEval2(Benchmark):
    """The instructions are in a file that also has the baseline's outputs: alpaca_eval_gpt4_baseline.json."""

    name, title, answers_in = "alpaca_eval2", "AlpacaEval 2", "model_outputs.json"
    source = HubFile("tatsu-lab/alpaca_eval", "alpaca_eval_gpt4_baseline.json")
    columns, key = {"instruction": str, "output": str, "generator": str, "dataset": str}, "instruction"
    versions = {805: ""}
    judge_model = "gpt-4-1106-preview"
    write_rows = staticmethod(write_array)

    def question(self, number: int, where: str, row: Row) -> Question:
        return Question(str(number), row["dataset"], (row["instruction"],), row)

    def question_notes(self, items: list[Question]) -> list[str]:
        generators = sorted({item.row["generator"] for item in items})
        if generators == [OLDER_BASELINE]:
            raise BadInput(
                f"{self.path}: these are AlpacaEval 1's, with outputs of {OLDER_BASELINE}; AlpacaEval 2 "
                f"compares with {BASELINE}: alpaca_eval_gpt4_baseline.json"
            )
        return [] if generators == [BASELINE] else [f"baseline {', '.join(generators)} instead of {BASELINE}"]

    def decoding(self, recipe: Recipe) -> Decoding:
        """The recipe's own: the benchmark leaves it to each model, and the paper samples as for training."""
        options = recipe.generate
        return Decoding(options.temperature, options.top_p, options.max_new_tokens)

    def answer_row(self, question: Question, generator: str, replies: list[Reply]) -> Row:
        """A row of the package's `model_outputs`, each instruction as in the question file."""
        own = {key: question.row[key] for key in ("dataset", "instruction")}
        return {**own, "output": replies[0].text, "generator": generator}

    def answers_file(self, generator: str) -> str:
        return self.answers_in

    def cost(self) -> Cost:
        """The package asks once about a question, and reads one token."""
        self._check_options()
        shown = PROMPT_CHARS + ASSUMED_CHARS
        chars = sum(shown + len(each.turns[0]) + len(each.row["output"]) for each in self.questions)
        return Cost(len(self.questions), chars // CHARS_PER_TOKEN, len(self.questions))

    def _check_options(self) -> None:
        """Raises BadInput for options that the package has no use for."""
        if self.options.judge_prompts or self.options.references:
            where = "its prompts in the package and its baseline in the question file"
            raise BadInput(f"alpaca_eval2 has {where}")

    def judge_stage(self, task: Task) -> Stage:
        """The stage that has a model's answers judged. Raises BadInput where the package is missing."""
        python = judge_python()
        version, options = package(python), self.options
        self._check_options()
        given = options.length_data
        length_data = {"length_data": files.local(given, "length_data")} if given else {}

        def inputs(run: Run, t: int) -> dict[str, str]:
            paths = {"answers": task.answers_path(run), "questions": self.path} | length_data
            return {name: file_digest(path) for name, path in paths.items()}

        def settings(run: Run, t: int) -> dict[str, Any]:
            own = {"request": options.judge_options, "alpaca_eval": version}
            return judging.common_settings(task) | own

        def judge(run: Run, t: int) -> Outcome:
            return _judge(task, run, python)

        outputs = ("annotations", "annotations.json", "metrics.json")
        return Stage("judge", inputs, settings, outputs, judge, task.judged_folder, parts=(CACHE,))


def judge_python() -> str:
    """The Python that has the package."""
    return os.environ.get("ALPACA_EVAL_PYTHON") or sys.executable


def package(python: str) -> str:
    """The version of alpaca_eval that a Python has. Raises BadInput where it has none."""
    code = "import importlib.metadata as m; print(m.version('alpaca_eval'))"
    try:
        asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        what = f"ALPACA_EVAL_PYTHON is {python!r}, no program ({error.strerror})"
        raise BadInput(f"environment: {what}") from None
    if asked.returncode:
        raise BadInput(
            f"AlpacaEval 2 is judged by the package alpaca_eval, which {python} does not have; install it "
            f"there: pip install 'alpaca_eval=={VERSION}' (or set ALPACA_EVAL_PYTHON to a Python that has it)"
        )
    return asked.stdout.strip()


def _judge(task: Task, run: Run, python: str) -> Outcome:
    folder, options, server = task.judged_folder(run), task.benchmark.options, task.server
    baseline = folder / "annotations" / "baseline.json"
    write_array(baseline, (question.row for question in task.questions))
    for name in ("annotations.json", "metrics.json", *([CACHE] if task.anew else [])):
        remove(folder / name)
    settings = folder / "annotations" / "settings.json"
    write_json(
        settings,
        {
            "answers": str(task.answers_path(run)),
            "baseline": str(baseline),
            "judge": server.model,
            "options": options.judge_options,
            "concurrency": server.concurrency,
            "retries": RETRIES,
            "timeout": TIMEOUT,
            "is_own": task.benchmark.is_own,
            "length_data": options.length_data and str(Path(options.length_data).absolute()),
            "cache": str(folder / CACHE),
            "annotations": str(folder / "annotations.json"),
            "metrics": str(folder / "metrics.json"),
        },
    )
    key = server.key or "none"  # the package wants one, also for a server that does not
    env = {"OPENAI_API_KEY": key, "OPENAI_API_KEYS": key}
    env |= {name: server.url for name in ("OPENAI_BASE_URL", "OPENAI_API_BASE")}  # the latter goes first
    env["OPENAI_CLIENT_CONFIG_PATH"] = os.devnull  # what else the package would ask
    log = folder / "logs" / "judge.log"
    command = [python, "-P", str(ANNOTATE), str(settings)]  # -P: it must not take DICE's modules for its own
    processes.run_logged(command, log, "judge", env=env)
    metrics = read_json(folder / "metrics.json")
    if metrics is None:
        raise StageFailed(f"alpaca_eval wrote no metrics; its log: {log}")
    if failure := metrics.get("failure"):
        if metrics["status"] in REFUSALS:
            raise BadInput(refusal(server.model, metrics["status"]))
        raise StageFailed(
            f"the judge does not answer ({failure}); what it answered before is kept: run the same command "
            "again once it is there"
        )
    return _outcome(task, run, metrics)


def _outcome(task: Task, run: Run, metrics: dict[str, Any]) -> Outcome:
    asked, judgments, unanswered = len(task.questions), int(metrics["n_total"]), metrics["unanswered"]
    unreadable = asked - judgments - unanswered
    hint = "it must return the log-probabilities of m and M"
    judging.check_enough(asked, unanswered, "rate limits, say", unreadable, hint)
    rate, error, controlled = (
        None if metrics.get(name) is None else metrics[name] / 100
        for name in ("win_rate", "standard_error", "length_controlled_winrate")
    )
    notes = [] if controlled is not None else [f"no length-controlled win rate: {metrics['uncontrolled']}"]
    scored = Score(rate, error, judgments, parts={}, length_controlled=controlled)
    return judging.outcome(task, run, scored, judgments, unreadable, unanswered, notes)
