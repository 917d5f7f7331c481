"""Answers judged by a scripted server: exact scores, and judges that fail in every way."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import benchmark_files
import pytest
import scripted_judge
from conftest import run_script
from scripted_judge import last

from dice import benchmarks, recipe_io, status, store
from dice.benchmarks import arena_hard, evaluation, mt_bench
from dice.benchmarks.questions import UNCOMPARED, Question
from dice.benchmarks.task import Options
from dice.console import console
from dice.errors import BadInput, StageFailed
from dice.recipe import ROOT

pytestmark = pytest.mark.usefixtures("workers_here")
UIDS = [f"q{n:03}" for n in range(500)]


@pytest.fixture
def run(fake_settings):
    return store.create_run(recipe_io.load_recipe("tiny", [*fake_settings, "generate.shard_size=300"]))


@pytest.fixture
def arena(tmp_path):
    """Options of a small Arena-Hard evaluation: ten questions, twenty games."""
    questions = benchmark_files.arena_hard(tmp_path / "questions.jsonl")
    answers = benchmark_files.arena_answers(tmp_path / "answers.jsonl", "gpt-4-0314", UIDS)
    return {"questions": str(questions), "references": str(answers), "first": 10, "concurrency": 2}


@pytest.fixture
def mt(tmp_path):
    """Options of MT-Bench's first 40 questions: writing, roleplay, extraction and mathematics."""
    questions = benchmark_files.mt_bench(tmp_path / "mt.jsonl")
    answers = benchmark_files.mt_references(tmp_path / "mt-references.jsonl")
    return {"questions": str(questions), "references": str(answers), "first": 40}


@pytest.fixture
def hasty(monkeypatch):
    """No waiting between attempts."""
    server = evaluation.Server
    monkeypatch.setattr(evaluation, "Server", lambda *args: server(*args, wait=0.001, attempts=2))


def evaluate(run, name, given, judge, monkeypatch, key="sk-secret"):
    monkeypatch.setenv("OPENAI_BASE_URL", judge.url if hasattr(judge, "url") else judge)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    return evaluation.evaluate(run, name, evaluation.parse(given))


def question_of(request):
    return int(re.search(r"Solve (\d+)", last(request))[1])


def model_is_first(request):
    return "baseline" not in last(request).split("<answer B>")[0]


def everything_written(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_arena_hard_win_rate_by_hand(run, arena, monkeypatch):
    """The judge finds the model much better in questions 0 and 1, and always prefers A in 2; else it ties.

    Questions 0 and 1: 6 of 6 battles won; question 2, A>B twice: 0 of 1 and 1 of 1; the seven others: 1 of 2.
    Together (12 + 1 + 7) / (12 + 2 + 14) = 20/28.
    """

    def say(request, number):
        if question_of(request) == 2:
            return "A is first. [[A>B]]"
        better = "[[A>>B]]" if model_is_first(request) else "[[B>>A]]"
        return f"My verdict: {better}" if question_of(request) < 2 else "[[A=B]]"

    with scripted_judge.serve(say) as judge:
        (result,) = evaluate(run, "arena_hard", arena, judge, monkeypatch)
    assert result.score == pytest.approx(20 / 28) and result.judgments == 20 == len(judge.requests)
    assert (result.benchmark, result.model, result.judge) == (
        "arena_hard-v0.1-first-10", "DPO", "gpt-4-1106-preview"
    )  # fmt: skip
    assert {request["temperature"] for request in judge.requests} == {0.0}
    assert {request["max_tokens"] for request in judge.requests} == {4096}
    assert "the judge's prompts are DICE's own, not the benchmark's" in result.notes
    assert benchmarks.results_of(run) == [result]

    (path,) = run.path.rglob("model_judgment/*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["uid"] for row in rows] == UIDS[:10] and rows[0]["baseline"] == "gpt-4-0314"
    assert [game["score"] for game in rows[0]["games"]] == ["B>>A", "A>>B"]
    assert "baseline q000" in rows[0]["games"][0]["prompt"][1]["content"].split("<answer B>")[0]


@pytest.mark.slow
def test_mt_bench_grade_by_hand(run, mt, monkeypatch):
    """Writing 4 and 8, roleplay 6, extraction 7, mathematics 2: each in all of ten questions and two turns.

    Mean: ((4 + 8) + 12 + 14 + 4) * 10 / 80 = 5.25.
    """

    def say(request, number):
        question = int(re.search(r"First question (\d+)", last(request))[1])
        second = "Second question" in last(request)
        assert ("first truth" in last(request)) == (question >= 30)
        return f"Fine. Rating: [[{(8 if second else 4, 6, 7, 2)[question // 10]}]]"

    with scripted_judge.serve(say) as judge:
        (result,) = evaluate(run, "mt_bench", mt, judge, monkeypatch)
    assert result.score == 5.25 and result.is_grade and result.judgments == 80
    assert result.parts == pytest.approx(
        {"turn 1": 4.75, "turn 2": 5.75, "writing": 6, "roleplay": 6, "extraction": 7, "math": 2}
    )
    (path,) = run.path.rglob("model_judgment/*.jsonl")
    row = json.loads(path.read_text().splitlines()[-1])
    assert (row["judge"], row["turn"], row["score"]) == (["gpt-4", "single-math-v1-multi-turn"], 2, 2)


def test_what_is_judged_is_kept_and_shown(run, arena, monkeypatch):
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
        with console.capture() as shown:
            evaluate(run, "arena_hard", {**arena, "models": "SFT,DPO"}, judge, monkeypatch)
    assert len(judge.requests) == 40 and "DPO: win rate 50.0%" in shown.get()
    with console.capture() as shown:
        status.show_run(run)
    assert "win rate 50.0% ± 0.0% (judge gpt-4-1106-preview)" in re.sub(r"\s+", " ", shown.get())
    assert [r.model for r in benchmarks.results_of(run)] == ["SFT", "DPO"]


def test_a_broken_manifest_is_one_line(run, arena, monkeypatch):
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
    (path,) = run.path.rglob("judge.manifest.json")
    path.write_text('{"result": {"score": "high"}}')
    with pytest.raises(BadInput, match=r"judge.manifest.json: no benchmark result \("):
        benchmarks.results_of(run)


def test_finished_work_is_thrown_away_only_when_asked_to(run, arena, monkeypatch):
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
        hotter = evaluation.parse({**arena, "temperature": 0.5})
        with pytest.raises(BadInput, match=r"answers was done with something else .*0.0 -> 0.5"):
            evaluation.evaluate(run, "arena_hard", hotter)
        (result,) = evaluation.evaluate(run, "arena_hard", hotter, force=True)
    assert len(judge.requests) == 40
    assert "answers at temperature 0.5 instead of the benchmark's" in result.notes


def test_another_judge_has_results_of_its_own(run, arena, monkeypatch):
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
        (other,) = evaluate(run, "arena_hard", {**arena, "judge": "org/Judge-7B"}, judge, monkeypatch)
    assert judge.requests[-1]["model"] == other.judge == "org/Judge-7B"
    assert "judge org/Judge-7B instead of gpt-4-1106-preview" in other.notes
    assert {r.judge for r in benchmarks.results_of(run)} == {"org/Judge-7B", "gpt-4-1106-preview"}


def test_neither_address_nor_key_is_written(run, arena, monkeypatch, capfd, hasty):
    with (
        scripted_judge.serve(lambda request, n: "[[A=B]]" if n < 6 else (500, "sk-secret")) as judge,
        pytest.raises(StageFailed) as told,
    ):
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
    written = everything_written(run.path) + capfd.readouterr().out.encode() + str(told.value).encode()
    port = judge.url.rsplit(":", 1)[1].removesuffix("/v1").encode()
    assert b"sk-secret" not in written and b"127.0.0.1:" + port not in written


@pytest.mark.slow
def test_a_judge_that_goes_down_is_asked_only_for_the_rest(run, arena, monkeypatch, hasty):
    with (
        scripted_judge.serve(lambda request, n: "[[A=B]]" if n < 6 else (503, "")) as judge,
        pytest.raises(StageFailed, match="answered before is kept: run the same command again"),
    ):
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
    assert benchmarks.results_of(run) == []
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        (result,) = evaluate(run, "arena_hard", arena, judge, monkeypatch)
    assert len(judge.requests) == 14 and result.judgments == 20 and result.unanswered == 0


def test_nonsense_and_gaps_are_counted(run, arena, monkeypatch, hasty):
    """One game of question 3 is unreadable, one of question 4 unanswered: both questions are left out."""

    def say(request, number):
        if model_is_first(request) and question_of(request) in (3, 4):
            return "I like both." if question_of(request) == 3 else (400, "refused by a filter")
        return "[[A>B]]" if model_is_first(request) else "[[B>A]]"

    with scripted_judge.serve(say) as judge:
        (result,) = evaluate(run, "arena_hard", arena, judge, monkeypatch)
    assert (result.judgments, result.unreadable, result.unanswered, result.score) == (16, 1, 1, 1.0)
    (manifest,) = run.path.rglob("judge.manifest.json")
    assert json.loads(manifest.read_text())["warnings"] == [
        "1 judgments could not be read; they are left out",
        "1 questions to the judge got no answer; they are left out",
        "2 judgments are left out, since the other one of their question is",
    ]


@pytest.mark.slow
def test_too_many_gaps_are_no_score(run, arena, monkeypatch, hasty):
    def say(request, number):
        return (400, "") if question_of(request) % 3 == 0 and model_is_first(request) else "[[A=B]]"

    with (
        scripted_judge.serve(say) as judge,
        pytest.raises(StageFailed, match=r"left 4 of 20 questions unanswered \(HTTP status 400\)"),
    ):
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
    assert len(judge.requests) == 4


@pytest.mark.slow
def test_mostly_nonsense_is_no_score_and_asked_again(run, arena, monkeypatch, hasty):
    """One game of every question can't be read: no question is left to score. Then the judge is better."""
    with (
        scripted_judge.serve(lambda r, n: "Neither!" if model_is_first(r) else "[[A=B]]") as judge,
        pytest.raises(StageFailed, match=r"10 of 20 without a verdict .*\(one of them: 'Neither!'\)"),
    ):
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        (result,) = evaluate(run, "arena_hard", arena, judge, monkeypatch)
    assert len(judge.requests) == 10 and (result.judgments, result.unreadable) == (20, 0)


@pytest.mark.slow
def test_force_asks_a_judge_without_a_score_everything_again(run, arena, monkeypatch, hasty):
    with (
        scripted_judge.serve(lambda r, n: "Neither!" if model_is_first(r) else "[[A=B]]") as judge,
        pytest.raises(StageFailed),
    ):
        evaluate(run, "arena_hard", arena, judge, monkeypatch)
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        monkeypatch.setenv("OPENAI_BASE_URL", judge.url)
        for _ in range(2):  # the second time there is a score
            evaluation.evaluate(run, "arena_hard", evaluation.parse(arena), force=True)
    assert len(judge.requests) == 20


@pytest.mark.slow
def test_a_killed_evaluation_asks_only_for_the_rest(run, arena, tmp_path):
    """Killed while the judge is slow; a judgment is at most ten requests from being on the disk."""

    def say(request, number):
        time.sleep(0 if number < 10 else 30)
        return "[[A=B]]"

    command = [sys.executable, "-m", "dice", "evaluate", str(run.path), "--benchmark=arena_hard"]
    command += [f"--{key}={value}" for key, value in arena.items()]
    with scripted_judge.serve(say) as judge:
        env = {**os.environ, "OPENAI_BASE_URL": judge.url, "OPENAI_API_KEY": "sk-secret"}
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
        while len(judge.requests) < 12 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM  # and not after the 30 s
        process.stdout.close()
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        env = {"OPENAI_BASE_URL": judge.url, "OPENAI_API_KEY": "sk-secret"}
        done = run_script(*command, **env)
    assert done.returncode == 0, done.stderr
    assert len(judge.requests) == 10 and "50.0% ± 0.0%" in done.stdout


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
    assert system["content"] == arena_hard.SYSTEM_PROMPT and user["content"] == "Why? one two"


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
    named = dict(zip(mt_bench._own_prompts(), (one, one + " {ref_answer_1}", two, two), strict=True))
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
    short = benchmark_files.arena_answers(tmp_path / "short.jsonl", "gpt-4-0314", UIDS[1:])
    with pytest.raises(BadInput, match=r"short.jsonl: no baseline answer to question 'q000'"):
        evaluate(run, "arena_hard", {**arena, "references": str(short)}, where, monkeypatch)
    with pytest.raises(BadInput, match=r"no reference answers to question 111, which math needs"):
        empty = benchmark_files.write_lines(tmp_path / "empty.jsonl", [])
        evaluate(run, "mt_bench", {**mt, "references": str(empty)}, where, monkeypatch)
    other = benchmark_files.arena_answers(tmp_path / "other.jsonl", "mine", UIDS)
    with scripted_judge.serve(lambda request, n: "[[A=B]]") as judge:
        (result,) = evaluate(run, "arena_hard", {**arena, "references": str(other)}, judge, monkeypatch)
    assert "baseline mine instead of gpt-4-0314" in result.notes


def test_version_2_has_a_baseline_for_each_category(tmp_path):
    questions = benchmark_files.arena_hard(tmp_path / "q2.jsonl", 750)
    uids = [f"q{n:03}" for n in range(750)]
    hard = benchmark_files.arena_answers(tmp_path / "hard.jsonl", "o3-mini-2025-01-31", uids)
    creative = benchmark_files.arena_answers(tmp_path / "creative.jsonl", "gemini-2.0-flash-001", uids)
    options = Options(questions=str(questions), references=f"{hard},{creative}")
    asked = arena_hard.read_questions(options)
    assert asked.version == "v2.0" and arena_hard.judge_model(asked) == "gpt-4.1"
    found, _ = arena_hard.references(asked, options)
    assert [found[uid]["model"] for uid in ("q499", "q500")] == ["o3-mini-2025-01-31", "gemini-2.0-flash-001"]
    labels = {f"{uid}/{game}": "A=B" for uid in uids[:500] for game in (0, 1)}
    labels |= {f"{uid}/{game}": ("B>A", "A>B")[game] for uid in uids[500:] for game in (0, 1)}
    score = arena_hard.score(asked, labels)
    assert score.score == pytest.approx(2 / 3)
    assert score.parts == {"creative_writing": 1.0, "hard_prompt": 0.5}


def test_alpaca_eval_without_its_package_is_one_line(run, tmp_path, monkeypatch):
    questions = benchmark_files.alpaca_eval(tmp_path / "q.json")
    monkeypatch.setenv("ALPACA_EVAL_PYTHON", "/usr/bin/false")
    given = {"questions": str(questions), "first": 3}
    with pytest.raises(BadInput, match=r"/usr/bin/false does not have; install it there: pip install"):
        evaluate(run, "alpaca_eval2", given, "http://127.0.0.1:9/v1", monkeypatch)
    assert not (run.path / "benchmarks").exists()
