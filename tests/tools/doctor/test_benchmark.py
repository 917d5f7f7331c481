"""The doctor on a benchmark: what `evaluate` would meet with, told before anything is generated."""

import importlib.util
import json
from pathlib import Path

import benchmark_files
import harness_tasks
import pytest
import scripted_judge

from dice.errors import BadInput
from dice.stages.prepare import load
from dice.tools import doctor
from dice.tools.benchmarks import alpaca_eval2, evaluation, harness
from dice.tools.doctor.findings import FAULT, FINE, WARNING


@pytest.fixture
def look(fake_settings, monkeypatch, capsys):
    """The findings by topic, and the status; without a judge unless there is an address."""

    def look(name, address=None, **given):
        for key in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
            monkeypatch.delenv(key, raising=False)
        if address:
            monkeypatch.setenv("OPENAI_BASE_URL", address)
        options = evaluation.parse(given)
        status = doctor.examine_benchmark("tiny", fake_settings, name, options)
        found = doctor._made(doctor.benchmark_checks(load("tiny", fake_settings), name, options))
        assert f"doctor of {name} for tiny; nothing is generated" in capsys.readouterr().out
        return {finding.topic: finding for finding in found}, status

    return look


@pytest.fixture
def mt_bench(tmp_path):
    """The questions and the references of a try-out on two questions."""
    return {
        "questions": str(benchmark_files.mt_bench(tmp_path / "q.jsonl")),
        "references": str(benchmark_files.mt_references(tmp_path / "a.jsonl")),
        "first": 2,
    }


def test_a_judge_that_answers(look, mt_bench, tmp_path):
    with scripted_judge.serve(lambda request, number: "yes") as judge:
        found, status = look("mt_bench", judge.url, judge="mine", **mt_bench)
    assert status == 0 and {finding.level for finding in found.values()} == {FINE}
    assert found["questions"].what.startswith(f"2 questions of {tmp_path / 'q.jsonl'}; ")
    sent = judge.requests[0]
    assert (sent["model"], sent["max_tokens"], len(judge.requests)) == ("mine", 2048, 2)
    # 3 models, 2 questions of 2 turns; a request may have 2,048 tokens.
    told = found["cost"].what
    assert told.startswith("12 answers of at most 1,024 tokens (3 models); then 12 requests to mine: ")
    assert "at most 24,576 to write" in told


def test_the_cost_is_that_of_the_texts(tmp_path):
    """A judge prompt that shows nothing but question and answer: 2 requests of 8 + 12 + 2,000 characters."""
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("prompt_template: '{QUESTION}{ANSWER_A}{ANSWER_B}'\nsystem_prompt: ' '\n")
    questions = benchmark_files.write_lines(
        tmp_path / "q.jsonl", [{"uid": "q000", "category": "c", "prompt": "Solve 1."}]
    )
    baseline = benchmark_files.arena_answers(tmp_path / "a.jsonl", "gpt-4-0314", ["q000"])
    given = {"questions": questions, "references": baseline, "judge_prompts": prompts, "first": 1}
    cost = evaluation.BENCHMARKS["arena_hard"](evaluation.parse(given)).cost()
    chars = 2 * (len(" ") + len("Solve 1.") + len("baseline q000") + 2000)
    assert (cost.requests, cost.tokens_in, cost.tokens_out) == (2, chars // 4, 2 * 4096)


def test_nobody_to_judge(look, mt_bench):
    found, status = look("mt_bench", **mt_bench)
    assert (found["judge"].level, status) == (WARNING, 0)
    assert "neither OPENAI_BASE_URL nor OPENAI_API_KEY is set" in found["judge"].what


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((401, "{}"), "refuses the key"),
        ((404, "{}"), "does not know this address or model"),
        ((400, "{}"), "'gpt-4' at OPENAI_BASE_URL does not answer: HTTP status 400"),
    ],
)
def test_a_judge_of_no_use(look, mt_bench, said, told):
    with scripted_judge.serve(lambda request, number: said) as judge:
        found, status = look("mt_bench", judge.url, **mt_bench)
    assert (found["judge"].level, status) == (FAULT, 1)
    assert told in found["judge"].what and judge.url not in found["judge"].what


def test_questions_and_references_of_no_use(look, mt_bench, tmp_path):
    found, status = look("mt_bench", questions=str(benchmark_files.mt_bench(tmp_path / "few.jsonl", 79)))
    assert ([*found], found["questions"].level, status) == (["questions"], FAULT, 1)
    (tmp_path / "none.jsonl").write_text("")
    found, _ = look("mt_bench", **mt_bench | {"first": 80, "references": str(tmp_path / "none.jsonl")})
    assert found["cost"].level == FAULT and "no reference answers to question" in found["cost"].what


def test_the_package_of_alpaca_eval(look, tmp_path, monkeypatch):
    questions = {"questions": str(benchmark_files.alpaca_eval(tmp_path / "q.json", 2)), "first": 2}
    monkeypatch.setattr(alpaca_eval2, "package", lambda python: "0.6.6")
    found, status = look("alpaca_eval2", **questions)
    assert (found["package"].what, status) == ("alpaca_eval 0.6.6", 0)
    assert "6 requests to gpt-4-1106-preview" in found["cost"].what
    monkeypatch.undo()
    monkeypatch.setenv("ALPACA_EVAL_PYTHON", "/nowhere/python")
    found, status = look("alpaca_eval2", **questions)
    assert (found["package"].level, status) == (FAULT, 1)


def test_tasks_of_the_harness(look, tmp_path, monkeypatch):
    def run_logged(command, log, label):
        asked = json.loads(command[-1])
        assert asked["model"] is None and Path(asked["run"], "recipe.yaml").is_file()
        Path(asked["folder"], "tasks.json").write_text('{"ifeval": 40}')

    monkeypatch.setattr(harness, "version", lambda: "0.4.13")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr("dice.launch.processes.run_logged", run_logged)
    found, status = look("lm_eval", tasks="ifeval", models="DPO,round-1")
    assert (found["package"].what, status) == ("lm_eval 0.4.13", 0)
    assert found["questions"].what.startswith("ifeval: 40 questions; 80 with 2 models, answered")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm_eval is not installed")
def test_a_task_file_is_loaded(look, tmp_path):
    found, _ = look("lm_eval", tasks=str(harness_tasks.choices(tmp_path)))
    assert found["questions"].what.startswith("little_choices: 4 questions; 12 with 3 models")
    found, status = look("lm_eval", tasks="ifval")
    assert status == 1 and "no task 'ifval'; did you mean ifeval?" in found["questions"].what


def test_what_can_not_be_asked_for(look):
    with pytest.raises(BadInput, match="--benchmark is 'chess'; there are alpaca_eval2, arena_hard"):
        look("chess")
    with pytest.raises(BadInput, match="--tasks is for --benchmark=lm_eval"):
        look("mt_bench", tasks="ifeval")
