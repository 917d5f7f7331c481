"""The benchmarks' files: questions of the right version in, answers in their formats out, scores by hand."""

import json
import math
import re
from types import SimpleNamespace

import benchmark_files
import pytest

from dice import __main__ as main
from dice.errors import BadInput
from dice.recipe import load
from dice.run import files
from dice.run.digests import file_digest
from dice.run.rows import Response
from dice.run.run import create_run
from dice.tools import benchmarks
from dice.tools.benchmarks import alpaca_eval2, annotate, arena_hard, evaluation, judging, mt_bench, style
from dice.tools.benchmarks.questions import Question, Questions
from dice.tools.benchmarks.task import Options

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


def test_the_digest_is_of_the_texts_in_their_order():
    one, two = (Question(id, "c", (text,), {}) for id, text in (("1", "a"), ("2", "b")))
    digests = {Questions("", items, None).digest for items in ([one, two], [two, one], [one], [two])}
    assert len(digests) == 4 and Questions("v", [one, two], None).digest in digests


def test_alpaca_evals_gaps_are_counted_and_leave_its_cache(tmp_path):
    """-1 is what the package keeps where it has no verdict; a choice without a message, where it gave up."""
    cache, unanswered = tmp_path / "cache.json", []
    annotate.forget_missing(cache)
    cache.write_text('[{"preference": 1.5}, {"preference": -1.0}, {"preference": 0}]')
    annotate.forget_missing(cache)
    assert json.loads(cache.read_text()) == [{"preference": 1.5}, {"preference": 0}]
    choices = [{"text": "", "total_tokens": 0}, {"text": " ", "message": {}}]
    ask = annotate.watched(lambda prompts, **_: {"completions_all": choices[: len(prompts)]}, unanswered)
    assert ask(prompts=["a", "b"], model_name="x") == {"completions_all": choices} and unanswered == ["a"]


def test_a_question_twice_and_unknown_categories_are_refused(tmp_path):
    rows = json.loads(benchmark_files.alpaca_eval(tmp_path / "a.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps([*rows[:804], rows[0]]))
    with pytest.raises(BadInput, match="comes twice"):
        alpaca_eval2.read_questions(Options(questions=str(tmp_path / "a.json")))
    questions = rows_of(benchmark_files.mt_bench(tmp_path / "m.jsonl"))
    questions[3]["category"] = "poetry"
    benchmark_files.write_lines(tmp_path / "m.jsonl", questions)
    with pytest.raises(BadInput, match=r"m.jsonl:4: unknown category 'poetry'"):
        mt_bench.read_questions(Options(questions=str(tmp_path / "m.jsonl")))


def test_the_hub_out_of_reach_is_one_line(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no route\nto the Hub")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(BadInput, match=r"\(no route\); give a copy by --questions=FILE"):
        arena_hard.read_questions(Options())


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
    command = ["dice", "evaluate", str(run.path), "--benchmark=mt_bench", f"--judge_options={given}"]
    monkeypatch.setattr("sys.argv", command)
    main._main()
    assert got[0].judge_options == json.loads(given)
    task = SimpleNamespace(benchmark=mt_bench, questions=None, options=got[0])
    asked = {"temperature": 0.0, "chat_template_kwargs": {"enable_thinking": False}, "seed": 1}
    assert judging.request_options(task) == asked


def test_markdown_is_counted_outside_of_code():
    text = (
        "# One\n## Two\n* a\n- b\n  1. c\n**bold** __too__\n```python\n# no\n- no\n**no**\n```\n####### no\n"
    )
    assert style.markdown_counts(text) == {
        "header_count": {"h1": 1, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0},
        "list_count": {"ordered": 1, "unordered": 2},
        "bold_count": {"**": 1, "__": 1},
    }


def test_arena_hard_by_hand():
    """Four questions. Game 0 has the baseline as A, game 1 the model as A.

    q1: B>>A, A>>B: wins 3 of 3 and 3 of 3. q2: A=B twice: 1/2 of 1 each. q3: A>>B and B>A: 0 of 3, 0 of 1.
    q4 lacks a verdict and is left out. Share: (6 + 1 + 0) / (6 + 2 + 4) = 7/12.
    Error: deviations 6 - 6*7/12 = 5/2, 1 - 2*7/12 = -1/6, 0 - 4*7/12 = -7/3;
    their squares add up to 25/4 + 1/36 + 49/9 = 422/36; times 3/2, root, over 12.
    """
    items = [Question(f"q{n}", "c", ("?",), {}) for n in (1, 2, 3, 4)]
    questions = Questions("v0.1", items, None)
    labels = {"q1": ("B>>A", "A>>B"), "q2": ("A=B", "B=A"), "q3": ("A>>B", "B>A"), "q4": ("A>B",)}
    verdicts = {f"{q}/{game}": label for q, both in labels.items() for game, label in enumerate(both)}
    found = arena_hard.score(questions, verdicts)
    assert found.score == pytest.approx(7 / 12) and found.parts == {} and found.judgments == 6
    assert found.error == pytest.approx(math.sqrt(422 / 36 * 3 / 2) / 12)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("x [[A>B]] y [[B>>A]]", "B>>A"),
        ("[[a=b]]", "A=B"),
        ("[[A>C]] none", None),
        ("A>B", None),
        ("[A>B] [B>A]", "B>A"),
        ("[[A=B]] [A>B]", "A=B"),
    ],
)
def test_verdicts_are_the_last_label(text, label):
    assert arena_hard.read_verdict(text) == label


def test_mt_bench_by_hand():
    """Question 1: 4 and 8, question 2: 6 alone: on average 6. The questions' means are 6 and 6: error 0."""
    items = [Question(str(n), category, ("a", "b"), {}) for n, category in ((1, "math"), (2, "stem"))]
    found = mt_bench.score(Questions("", items, None), {"1/0": 4.0, "1/1": 8.0, "2/0": 6.0})
    assert (found.score, found.error) == (6.0, 0.0)
    assert found.parts == {"turn 1": 5.0, "turn 2": 8.0, "math": 6.0, "stem": 6.0}


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("so [[7]] or [[2]]", 7.0),
        ("[[8.5]]", 8.5),
        ("grade [6]", 6.0),
        ("[[11]]", None),
        ("[[0]]", None),
        ("7", None),
    ],
)
def test_grades_are_the_first_in_brackets(text, grade):
    assert mt_bench.read_verdict(text) == grade
