"""What a judge is asked with, and references: files of one's own, and those of no use."""

import contextlib

import benchmark_files
import pytest
import scripted_judge
from scripted_judge import evaluate, last

from dice.errors import BadInput
from dice.recipe import load
from dice.run.run import create_run
from dice.tools.benchmarks import arena_hard, mt_bench
from dice.tools.benchmarks.questions import UNCOMPARED, Question
from dice.tools.benchmarks.task import Options

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("workers_here")]


@pytest.fixture
def run(fake_settings):
    return create_run(load.load_recipe("tiny", [*fake_settings, "generate.shard_size=300"]))


@pytest.fixture
def arena(tmp_path):
    return benchmark_files.arena_options(tmp_path)


@pytest.fixture
def mt(tmp_path):
    return benchmark_files.mt_options(tmp_path)


def test_the_benchmarks_own_prompts(run, arena, tmp_path, monkeypatch):
    prompts = tmp_path / "judge.yaml"
    prompts.write_text(
        "system_prompt: Be fair.\nprompt_template: ['{question_1} | {answer_1} | {answer_2}']\n"
    )
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        given = {**arena, "judge_prompts": str(prompts)}
        (result,) = evaluate(run, "arena_hard", given, judge, monkeypatch)
    assert {request["messages"][0]["content"] for request in judge.requests} == {"Be fair."}
    assert any(last(r).startswith("Solve 0.\n\n | baseline q000 | ") for r in judge.requests)
    assert result.notes[1:] == [UNCOMPARED] and len(result.questions_digest) == 64


def test_a_template_without_a_system_prompt_is_said_so(tmp_path):
    """Arena-Hard's configuration has one; the system prompt is in its code."""
    prompts = tmp_path / "arena-hard.yaml"
    prompts.write_text("judge_model: x\nprompt_template: '{QUESTION} {ANSWER_A} {ANSWER_B}'\n")
    read = arena_hard.Prompts(str(prompts))
    assert read.notes == ["the judge's system prompt is DICE's own: arena-hard.yaml has none"]
    system, user = read.messages(Question("q", "c", ("Why?",), {}), "one", "two")
    assert system["content"] == arena_hard.Prompts(None).system[""] and user["content"] == "Why? one two"


@pytest.mark.parametrize(
    ("benchmark", "text", "message"),
    [
        (arena_hard, "prompt_template: '{nothing}'", r"can't be filled in \(KeyError\('nothing'\)\)"),
        (arena_hard, "prompt_template: []", r"must be YAML with prompt_template \(a text\)"),
        (arena_hard, "prompt_template: a\nsystem_prompt: 5", "must be YAML with prompt_template"),
        (arena_hard, "- prompt_template", "must be YAML with prompt_template"),
        (arena_hard, "prompt_template: '{question_1}{answer_2}'", "has no place for the first answer"),
        (mt_bench, '{"name": "single-v1", "system_prompt": "", "prompt_template": ""}', "lacks single-math"),
    ],
)
def test_prompts_of_no_use(tmp_path, benchmark, text, message):
    (tmp_path / "prompts").write_text(text + "\n")
    with pytest.raises(BadInput, match=message):
        benchmark.Prompts(str(tmp_path / "prompts"))


def test_mt_benchs_prompts_must_show_what_is_graded(tmp_path):
    """FastChat's places are filled; a multi-turn prompt that leaves out the second answer is refused."""
    one, two = "{question} {answer}", "{question_1} {answer_1} {question_2} {answer_2}"
    named = dict(zip(mt_bench.PROMPTS, (one, one + " {ref_answer_1}", two, two), strict=True))
    for second, wrong in (
        (two, None),
        (two.replace("{answer_2}", ""), "'single-v1-multi-turn' has no place"),
    ):
        named["single-v1-multi-turn"] = second
        rows = [{"name": n, "system_prompt": "s", "prompt_template": text} for n, text in named.items()]
        path = str(benchmark_files.write_lines(tmp_path / "judge.jsonl", rows))
        with pytest.raises(BadInput, match=wrong) if wrong else contextlib.nullcontext():
            assert mt_bench.Prompts(path).notes == []


def test_references_that_do_not_fit(run, arena, mt, tmp_path, monkeypatch):
    where = "http://127.0.0.1:9/v1"
    short = benchmark_files.arena_answers(tmp_path / "short.jsonl", "gpt-4-0314", benchmark_files.UIDS[1:])
    with pytest.raises(BadInput, match=r"short.jsonl: no baseline answer to question 'q000'"):
        evaluate(run, "arena_hard", {**arena, "references": str(short)}, where, monkeypatch)
    with pytest.raises(BadInput, match=r"no reference answers to question 111, which math needs"):
        empty = benchmark_files.write_lines(tmp_path / "empty.jsonl", [])
        evaluate(run, "mt_bench", {**mt, "references": str(empty)}, where, monkeypatch)
    other = benchmark_files.arena_answers(tmp_path / "other.jsonl", "mine", benchmark_files.UIDS)
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        (result,) = evaluate(run, "arena_hard", {**arena, "references": str(other)}, judge, monkeypatch)
    assert "baseline mine instead of gpt-4-0314" in result.notes


def test_version_2_has_a_baseline_for_each_category(tmp_path):
    questions = benchmark_files.arena_hard(tmp_path / "q2.jsonl", 750)
    uids = [f"q{n:03}" for n in range(750)]
    hard = benchmark_files.arena_answers(tmp_path / "hard.jsonl", "o3-mini-2025-01-31", uids)
    creative = benchmark_files.arena_answers(tmp_path / "creative.jsonl", "gemini-2.0-flash-001", uids)
    options = Options(questions=str(questions), references=f"{hard},{creative}")
    asked = arena_hard.ArenaHard(options)
    assert asked.version == "v2.0" and asked.judge_model == "gpt-4.1"
    found, _ = asked.references()
    assert [found[uid]["model"] for uid in ("q499", "q500")] == ["o3-mini-2025-01-31", "gemini-2.0-flash-001"]
    labels = {f"{uid}/{game}": "A=B" for uid in uids[:500] for game in (0, 1)}
    labels |= {f"{uid}/{game}": ("B>A", "A>B")[game] for uid in uids[500:] for game in (0, 1)}
    score = asked.score(asked.questions, labels)
    assert score.score == pytest.approx(2 / 3)
    assert score.parts == {"creative_writing": 1.0, "hard_prompt": 0.5}


def test_alpaca_eval_without_its_package_is_one_line(run, tmp_path, monkeypatch):
    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    monkeypatch.setenv("ALPACA_EVAL_PYTHON", "/usr/bin/false")
    given = {"questions": str(questions), "first": 3}
    with pytest.raises(BadInput, match=r"/usr/bin/false does not have; install it there: pip install"):
        evaluate(run, "alpaca_eval2", given, "http://127.0.0.1:9/v1", monkeypatch)
    assert not (run.path / "benchmarks").exists()
