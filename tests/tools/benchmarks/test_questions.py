"""The benchmarks' questions and the options of an evaluation: of the right version, and of the right kind."""

import json
from types import SimpleNamespace

import benchmark_files
import pytest

from dice.__main__ import Commands
from dice.errors import BadInput
from dice.launch import command_line
from dice.recipe import load
from dice.run.run import create_run
from dice.tools.benchmarks import evaluation
from dice.tools.benchmarks.alpaca_eval2 import AlpacaEval2
from dice.tools.benchmarks.arena_hard import ArenaHard
from dice.tools.benchmarks.mt_bench import MtBench
from dice.tools.benchmarks.questions import Question, digest
from dice.tools.benchmarks.task import Options

pytestmark = pytest.mark.slow


@pytest.fixture
def run(fake_settings):
    return create_run(load.load_recipe("tiny", fake_settings))


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        (
            "alpaca_eval2",
            lambda p: benchmark_files.alpaca_eval(p, 804),
            "804 questions; AlpacaEval 2 has 805",
        ),
        (
            "alpaca_eval2",
            lambda p: benchmark_files.alpaca_eval(p, generator="text_davinci_003"),
            "these are AlpacaEval 1's",
        ),
        (
            "alpaca_eval2",
            benchmark_files.mt_bench,
            ":1: no column 'instruction' with a text; the row has: quest",
        ),
        ("arena_hard", lambda p: benchmark_files.arena_hard(p, 499), r"has 500 \(v0.1\) or 750 \(v2.0\)"),
        ("arena_hard", benchmark_files.mt_bench, "before March 2025 they were question_id and turns"),
        ("mt_bench", lambda p: benchmark_files.mt_bench(p, 79), "79 questions; MT-Bench has 80"),
        ("mt_bench", benchmark_files.arena_hard, ":1: no column 'question_id'"),
    ],
)
def test_questions_of_another_version_are_refused(run, tmp_path, name, make, message):
    path = make(tmp_path / "q.jsonl")
    with pytest.raises(BadInput, match=message):
        evaluation.evaluate(run, name, Options(questions=str(path)))
    assert not (run.path / "benchmarks").exists()


@pytest.mark.parametrize(
    ("benchmark", "make"), [(AlpacaEval2, "alpaca_eval"), (ArenaHard, "arena_hard"), (MtBench, "mt_bench")]
)
def test_a_try_out_takes_a_shorter_file(tmp_path, benchmark, make):
    path = getattr(benchmark_files, make)(tmp_path / "q.jsonl", 7)
    with pytest.raises(BadInput, match="7 questions; .* goes with --first=7"):
        benchmark(Options(questions=str(path)))
    made = benchmark(Options(questions=str(path), first=5))
    assert len(made.questions) == 5 and made.is_own
    assert "7 questions, fewer than the benchmark has" in made.notes
    assert len(benchmark(Options(questions=str(path), first=20)).questions) == 7


def test_the_version_of_a_shorter_file(tmp_path):
    path = benchmark_files.arena_hard(tmp_path / "q.jsonl", 501)
    assert ArenaHard(Options(questions=str(benchmark_files.arena_hard(path, 500)), first=5)).version == "v0.1"
    rows = [{"uid": "a", "category": "hard_prompt", "prompt": "?"}]
    assert (
        ArenaHard(Options(questions=str(benchmark_files.write_lines(path, rows)), first=5)).version == "v2.0"
    )


def test_the_digest_is_of_the_texts_in_their_order():
    one, two = (Question(id, "c", (text,), {}) for id, text in (("1", "a"), ("2", "b")))
    assert len({digest(items) for items in ([one, two], [two, one], [one], [two])}) == 4


def test_a_question_twice_and_unknown_categories_are_refused(tmp_path):
    rows = json.loads(benchmark_files.alpaca_eval(tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps([*rows[:804], rows[0]]))
    with pytest.raises(BadInput, match="comes twice"):
        AlpacaEval2(Options(questions=str(tmp_path / "a.json")))
    lines = benchmark_files.mt_bench(tmp_path / "m.jsonl").read_text().splitlines()
    questions = [json.loads(line) for line in lines]
    questions[3]["category"] = "poetry"
    benchmark_files.write_lines(tmp_path / "m.jsonl", questions)
    with pytest.raises(BadInput, match=r"m.jsonl:4: unknown category 'poetry'"):
        MtBench(Options(questions=str(tmp_path / "m.jsonl")))


def test_the_hub_out_of_reach_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route\nto the Hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(BadInput, match=r"\(no route\); give a copy by --questions=FILE"):
        ArenaHard(Options())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": "round-2"}, "has no model 'round-2'; there are SFT, DPO"),
        ({"temperature": 3}, "--temperature is 3; it must be between 0 and 2"),
        ({"first": 0}, "--first is 0; it must be a whole number of at least 1"),
        ({"judge_options": "hot"}, "--judge_options is 'hot'; it must be a JSON object"),
        ({"judge_options": '{"model": "other"}'}, "--judge_options has 'model', .* --judge names the model"),
        ({"questions": "gone.jsonl"}, "--questions: there is no file gone.jsonl"),
    ],
)
def test_options_that_can_not_be(run, given, message):
    with pytest.raises(BadInput, match=message):
        evaluation.evaluate(run, "mt_bench", evaluation.parse(given))


def test_the_command_line_knows_benchmarks_and_options(run):
    from commands import run_dice

    for words, message in (
        (
            ["--benchmark=mt_bench", "--quesions=x"],
            "evaluate has no flag --quesions; did you mean --questions?",
        ),
        (["--first=3"], "evaluate: --first needs --benchmark=NAME"),
    ):
        told = run_dice("evaluate", str(run.path), *words)
        assert (told.returncode, told.stderr) == (2, f"error: {message}\n")


def test_options_of_the_request_are_json(run, monkeypatch):
    """As the command line gives them, and not as a Python literal."""
    given = '{"chat_template_kwargs": {"enable_thinking": false}, "max_tokens": null, "seed": 1}'
    got = []
    monkeypatch.setattr(evaluation, "evaluate", lambda run, name, options, force: got.append(options))
    command_line.call(
        Commands, ["evaluate", str(run.path), "--benchmark=mt_bench", f"--judge_options={given}"], ""
    )
    assert got[0].judge_options == json.loads(given)
    asked = {"temperature": 0.0, "chat_template_kwargs": {"enable_thinking": False}, "seed": 1}
    benchmark = SimpleNamespace(
        options=got[0], judge_options=lambda: {"temperature": 0.0, "max_tokens": 2048}
    )
    assert MtBench.request_options(benchmark) == asked
