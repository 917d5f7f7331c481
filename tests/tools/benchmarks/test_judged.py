"""Answers judged by a scripted server: exact scores, and judges that fail in every way."""

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
from commands import run_script
from fake_world import write_manifest
from scripted_judge import evaluate, last

from dice.errors import BadInput, StageFailed
from dice.launch.console import console
from dice.recipe import load
from dice.recipe.paths import ROOT
from dice.run.run import create_run
from dice.tools import benchmarks, status
from dice.tools.benchmarks import evaluation

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


@pytest.fixture
def hasty(monkeypatch):
    """No waiting between attempts."""
    server = evaluation.Server
    monkeypatch.setattr(evaluation, "Server", lambda *args: server(*args, wait=0.001, attempts=2))


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
    assert [row["uid"] for row in rows] == benchmark_files.UIDS[:10] and rows[0]["baseline"] == "gpt-4-0314"
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
    write_manifest(path.parent, "judge", result={"score": "high"})
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
