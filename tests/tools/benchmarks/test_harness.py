"""lm_eval's tasks as stages of a run; what a process of its own writes is written by the test instead."""

import json
import re
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import harness_tasks
import pytest
from fake_world import write_manifest

from dice.errors import BadInput, StageFailed
from dice.launch.console import console
from dice.tools import benchmarks, status
from dice.tools.benchmarks import evaluation, harness, results

SAMPLES = [
    {
        "task": "ifeval",
        "doc_id": number,
        "doc_hash": f"{number:x}",
        "filter": how,
        "resps": [["a" * 10 * number]],
    }
    for how in ("strict", "loose")
    for number in (1, 2, 3)
]


def figures(**own):
    return {"name": "ifeval", "alias": "ifeval", "sample_len": 3, **own}


SAYS = {
    "ifeval": figures(
        **{"strict,none": 0.25, "strict_stderr,none": 0.125, "loose,none": 0.5, "loose_stderr,none": "N/A"}
    ),
    "gsm8k": figures(**{"em,first": 0.75, "em_stderr,first": "N/A", "em,last": 1}),
    "nothing": figures(),
}


@pytest.fixture
def asked(monkeypatch):
    """What processes are asked for; each writes what SAYS has of its task."""
    monkeypatch.setattr(harness, "version", lambda: "0.4.13")
    found = []

    def run_logged(command, log, label):
        found.append(json.loads(command[-1]))
        if found[-1]["model"]:
            task, folder = Path(found[-1]["tasks"][0]).stem, Path(found[-1]["folder"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "results.json").write_text(json.dumps({"results": {task: SAYS[task]}}))
            harness_tasks.written(folder / "samples.jsonl", SAMPLES)

    monkeypatch.setattr("dice.launch.processes.run_logged", run_logged)
    return found


def evaluate(run, tasks, **given):
    return evaluation.evaluate(run, "lm_eval", evaluation.parse({"tasks": tasks, **given}))


def test_a_task_is_a_result_like_any_other(fake_run, asked):
    with console.capture() as shown:
        (result,) = evaluate(fake_run, "ifeval", first=3, max_new_tokens=64)
        assert evaluate(fake_run, "ifeval", first=3, max_new_tokens=64) == [result]
    (told,) = asked  # a second time nothing is
    assert (told["tasks"], told["model"], told["first"], told["max_new_tokens"]) == (["ifeval"], "DPO", 3, 64)
    assert (result.benchmark, result.model, result.judge) == (
        "lm_eval-ifeval-first-3",
        "DPO",
        "lm_eval 0.4.13",
    )
    assert (result.score, result.error, result.parts) == (0.25, 0.125, {"strict": 0.25, "loose": 0.5})
    assert (result.questions, result.judgments, result.mean_chars) == (3, 3, 20.0)
    assert results.in_words(result) == "strict 0.2500 ± 0.1250 (lm_eval 0.4.13)"
    said = re.sub(r"\s+", " ", shown.get())
    assert "DPO: strict 0.2500 ± 0.1250 (lm_eval 0.4.13), 3 questions" in said
    assert "model strict mean length judgments DPO 0.2500 ± 0.1250 20 characters 3" in said
    assert "a try-out on the first 3 questions" in said and "answers of at most 64 tokens" in said
    assert benchmarks.results_of(fake_run) == [result]
    with console.capture() as shown:
        status.show_run(fake_run)
    assert "lm_eval-ifeval-first-3 DPO strict 0.2500" in re.sub(r"\s+", " ", shown.get())
    assert [*results.remarks([result])] == ["lm_eval-ifeval-first-3, lm_eval 0.4.13"]


def test_several_tasks_are_looked_at_before_a_model_is_loaded(fake_run, asked):
    found = evaluate(fake_run, ("ifeval", "gsm8k"), models="SFT,DPO")
    assert [(told["tasks"], told["model"]) for told in asked] == [
        (["ifeval", "gsm8k"], None),
        *[([task], model) for task in ("ifeval", "gsm8k") for model in ("SFT", "DPO")],
    ]
    assert [(r.benchmark, r.model) for r in found] == [
        (f"lm_eval-{task}", model) for task in ("gsm8k", "ifeval") for model in ("SFT", "DPO")
    ]
    assert results.in_words(found[0]) == "em,first 0.7500 (lm_eval 0.4.13)"
    assert found[0].parts == {"em,first": 0.75, "em,last": 1}


def test_a_task_without_a_figure_is_no_result(fake_run, asked):
    with pytest.raises(StageFailed, match=r"lm_eval came to no figure for nothing; its log: .*judge\.log"):
        evaluate(fake_run, "nothing")
    assert benchmarks.results_of(fake_run) == []


def test_a_task_file_and_what_it_names_count(fake_run, asked, tmp_path, monkeypatch):
    path = harness_tasks.answers(tmp_path)
    outer = tmp_path / "ifeval.yaml"
    outer.write_text("task: ifeval\ninclude: answers.yaml\n")
    names = ["ifeval.yaml", "answers.yaml", "check.py", "answers.jsonl"]
    assert [file.name for file in harness.task_files(outer)] == names
    monkeypatch.chdir(tmp_path)
    (result,) = evaluate(fake_run, "ifeval.yaml")
    assert asked[0]["tasks"] == [str(outer)] and asked[0]["here"] == str(tmp_path)
    assert result.benchmark == "lm_eval-ifeval"
    (tmp_path / "check.py").write_text("")
    with pytest.raises(BadInput, match=r"done with something else \(task: check.py changed\); --force makes"):
        evaluate(fake_run, "ifeval.yaml")
    path.write_text("- a list")
    with pytest.raises(BadInput, match="answers.yaml: no task file; it must have keys"):
        evaluate(fake_run, "ifeval.yaml")


def test_questions_of_ones_own_count_and_are_noted(fake_run, asked, tmp_path):
    questions = harness_tasks.written(tmp_path / "q.jsonl", harness_tasks.ANSWERS)
    (result,) = evaluate(fake_run, "ifeval", questions=str(questions))
    assert asked[0]["questions"] == str(questions) and result.notes == [harness.UNCOMPARED]
    questions.write_text("{}")
    with pytest.raises(BadInput, match=r"done with something else \(questions changed\)"):
        evaluate(fake_run, "ifeval", questions=str(questions))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": "ifeval", "judge": "x"}, "--judge has no meaning for lm_eval; it takes --tasks, --models"),
        ({"tasks": "ifeval", "temperature": 0}, "--temperature has no meaning for lm_eval"),
        ({"tasks": "ifeval", "judge_options": "{\"a\": 1}"}, "--judge_options has no meaning for lm_eval"),
        ({}, "--benchmark=lm_eval needs --tasks=NAME"),
        ({"tasks": "a/../b"}, "--tasks is 'a/../b'; it must be a task's name"),
        ({"tasks": "gone.yaml"}, "--tasks: there is no file gone.yaml"),
        ({"tasks": "ifeval", "questions": "gone.jsonl"}, "--questions: there is no file gone.jsonl"),
        ({"tasks": "a,b", "questions": __file__}, "--questions goes with one task of lm_eval's"),
        ({"tasks": "a.yaml", "questions": __file__}, "--questions goes with one task of lm_eval's"),
        ({"tasks": "ifeval", "models": "round-7"}, "has no model 'round-7'; there are SFT, DPO"),
    ],
)  # fmt: skip
def test_what_can_not_be_asked_for(fake_run, asked, given, message):
    with pytest.raises(BadInput, match=re.escape(message)):
        evaluation.evaluate(fake_run, "lm_eval", evaluation.parse(given))
    assert not asked and not (fake_run.path / "benchmarks").exists()


def test_a_task_file_must_name_its_task(fake_run, asked, tmp_path):
    for text, message in (
        ("tusk: a", "`task:` is null"),
        ("a: [", "no task file"),
        ("task: [a]", "`task:` is "),
    ):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(BadInput, match=f"a.yaml: {re.escape(message)}"):
            evaluate(fake_run, str(tmp_path / "a.yaml"))


def test_without_the_package_a_line_says_how_to_get_it(fake_run, monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(BadInput, match=r"has no package lm_eval; pip install -e '\.\[bench\]' adds it"):
        evaluate(fake_run, "ifeval")


def test_the_other_benchmarks_have_no_tasks(fake_run):
    with pytest.raises(
        BadInput, match="--tasks is for --benchmark=lm_eval; mt_bench has one set of questions"
    ):
        evaluation.evaluate(fake_run, "mt_bench", evaluation.parse({"tasks": "ifeval"}))
    with pytest.raises(BadInput, match="--length_data is for --benchmark=alpaca_eval2; mt_bench has no use"):
        evaluation.evaluate(fake_run, "mt_bench", evaluation.parse({"length_data": "gamed.csv"}))


def test_a_result_of_before_has_no_metric(fake_run, asked):
    (result,) = evaluate(fake_run, "ifeval")
    before = {**asdict(result), "score": 0.5, "judge": "gpt-4"}
    del before["metric"]
    folder = fake_run.path / "benchmarks/lm_eval-ifeval/DPO/judged-by-lm_eval-0.4.13"
    write_manifest(folder, "judge", result=before)
    (found,) = benchmarks.results_of(fake_run)
    assert results.in_words(found) == "win rate 50.0% ± 12.5% (judge gpt-4)"
