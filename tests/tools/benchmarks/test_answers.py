"""Answers to the benchmarks' questions, in the benchmarks' own formats, with no judge to be asked."""

import json
import re
from types import SimpleNamespace

import benchmark_files
import pytest

from dice.recipe import load
from dice.run import files
from dice.run.digests import file_digest
from dice.run.rows import Response
from dice.run.run import create_run
from dice.tools import benchmarks
from dice.tools.benchmarks import arena_hard, evaluation, mt_bench

MAKERS = {
    "alpaca_eval2": benchmark_files.alpaca_eval,
    "arena_hard": benchmark_files.arena_hard,
    "mt_bench": benchmark_files.mt_bench,
}


@pytest.fixture(autouse=True)
def no_judge(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def run(fake_settings):
    return create_run(load.load_recipe("tiny", [*fake_settings, "generate.shard_size=300"]))


def evaluate(run, name, tmp_path, **given):
    """Answers of the DPO model; returns the question file and the folder with the answers."""
    path = MAKERS[name](tmp_path / "questions.json")
    evaluation.evaluate(run, name, evaluation.parse({"questions": str(path), **given}))
    (folder,) = (run.path / "benchmarks").glob(f"{name}*/DPO")
    return path, folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.usefixtures("workers_here")
def test_alpaca_eval_answers(run, tmp_path, capsys):
    path, folder = evaluate(run, "alpaca_eval2", tmp_path)
    asked, answers = (json.loads(p.read_text()) for p in (path, folder / "model_outputs.json"))
    assert len(answers) == 805 and [a["instruction"] for a in answers] == [q["instruction"] for q in asked]
    assert [a["dataset"] for a in answers] == [q["dataset"] for q in asked]
    assert {a["generator"] for a in answers} == {"tiny-DPO"} and {*answers[0]} == {
        "dataset", "instruction", "output", "generator"
    }  # fmt: skip
    sampling = json.loads((folder / "turns/turn-1/temperature-0.9/sampling.json").read_text())
    assert sampling == {"temperature": 0.9, "top_p": 1.0, "max_new_tokens": 64}  # the recipe's own
    (shard, *_) = files.shards(folder / "turns/turn-1/temperature-0.9")
    sampled = {r.response for r in files.read_rows(shard, Response)}
    assert answers[0]["output"] in sampled
    said = capsys.readouterr().out
    assert "not asked: neither OPENAI_BASE_URL nor OPENAI_API_KEY is set" in re.sub(r"\s+", " ", said)
    assert benchmarks.results_of(run) == []


@pytest.mark.usefixtures("workers_here")
def test_arena_hard_answers(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        arena_hard, "token_counter", lambda: SimpleNamespace(encode=lambda text, **_: [0] * len(text.split()))
    )
    path, folder = evaluate(run, "arena_hard", tmp_path)
    asked, answers = rows_of(path), rows_of(folder / "model_answer/tiny-DPO.jsonl")
    assert folder.parent.name == "arena_hard-v0.1" and len(answers) == 500
    assert (folder / "turns/turn-1/temperature-0").is_dir()
    for question, row in zip(asked, answers, strict=True):
        said = row["messages"][1]["content"]["answer"]
        assert row["uid"] == question["uid"] and row["model"] == "tiny-DPO"
        assert row["messages"][0] == {"role": "user", "content": question["prompt"]}
        assert row["metadata"]["token_len"] == len(said.split())
        assert {*row["metadata"]} == {"token_len", "header_count", "list_count", "bold_count"}
        assert {*row} == {"uid", "ans_id", "model", "messages", "tstamp", "metadata"}
    assert len({row["ans_id"] for row in answers}) == 500


@pytest.mark.usefixtures("workers_here")
def test_token_lengths_without_tiktokens_file_are_marked(run, tmp_path, monkeypatch):
    monkeypatch.setattr(arena_hard, "token_counter", lambda: None)
    _, folder = evaluate(run, "arena_hard", tmp_path, first=3)
    (row, *_) = rows_of(folder / "model_answer/tiny-DPO.jsonl")
    assert row["token_len_by"] == "the model's own tokenizer"
    said = row["messages"][1]["content"]["answer"]
    assert row["metadata"]["token_len"] == min(len(said) + 1, 4096)  # the fake engine's tokens are bytes
    manifest = json.loads((folder / "answers.manifest.json").read_text())
    assert "set TIKTOKEN_CACHE_DIR" in manifest["warnings"][0]


@pytest.mark.slow
def test_mt_bench_answers_hold_the_models_own_first_turn(run, tmp_path):
    path, folder = evaluate(run, "mt_bench", tmp_path)
    asked, answers = rows_of(path), rows_of(folder / "model_answer/tiny-DPO.jsonl")
    assert [a["question_id"] for a in answers] == [q["question_id"] for q in asked] and len(answers) == 80
    assert {*answers[0]} == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    temperatures = {"temperature-0": 40, "temperature-0.1": 20, "temperature-0.7": 20}
    for turn in ("turn-1", "turn-2"):
        parts = {p.name: files.count_rows(p / "prompts.jsonl") for p in (folder / "turns" / turn).iterdir()}
        assert parts == temperatures
    second = {}
    for prompts in (folder / "turns/turn-2").glob("*/prompts.jsonl"):
        for row in rows_of(prompts):
            first, own, again = row["messages"]
            second[first["content"]] = own["content"], again["content"], prompts.parent.name
    for question, answer in zip(asked, answers, strict=True):
        own, again, part = second[question["turns"][0]]
        assert [own, again] == [answer["choices"][0]["turns"][0], question["turns"][1]]
        assert part == f"temperature-{mt_bench.TEMPERATURES[question['category']]:g}"


@pytest.mark.usefixtures("workers_here")
def test_a_second_time_nothing_is_sampled_and_after_a_kill_the_rest(run, tmp_path):
    path, folder = evaluate(run, "mt_bench", tmp_path, first=30)
    answers = folder / "model_answer/tiny-DPO.jsonl"
    before, manifest = answers.read_bytes(), json.loads((folder / "answers.manifest.json").read_text())
    basis = {key: manifest[key] for key in ("inputs", "recipe")}
    (folder / "answers.manifest.json").unlink()
    (folder / "answers.started.json").write_text(json.dumps(basis))
    answers.unlink()
    for shard in (folder / "turns").rglob("part-*.jsonl"):
        files.seal(shard, file_digest(shard))
    kept = files.shard_path(folder / "turns/turn-1/temperature-0.7", 0)
    lost = files.shard_path(folder / "turns/turn-2/temperature-0.7", 0)
    lost.unlink()
    written = kept.stat().st_mtime_ns
    evaluate(run, "mt_bench", tmp_path, first=30)
    assert answers.read_bytes() == before and lost.exists() and kept.stat().st_mtime_ns == written
