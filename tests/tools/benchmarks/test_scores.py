"""What becomes of a judge's texts: verdicts, grades and scores by hand, and what the judge left out."""

import gzip
import json
import math
import random
import re
import time

import httpx
import pytest
import scripted_judge

from dice.tools.benchmarks import annotate, style
from dice.tools.benchmarks.arena_hard import ArenaHard
from dice.tools.benchmarks.mt_bench import MtBench
from dice.tools.benchmarks.questions import Question


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


def test_markdown_is_counted_outside_of_code():
    text = (
        "# One\n## Two\n* a\n- b\n  1. c\n**bold** __too__\n```python\n# no\n- no\n**no**\n```\n####### no\n"
    )
    assert style.markdown_counts(text) == {
        "header_count": {"h1": 1, "h2": 1, "h3": 0, "h4": 0, "h5": 0, "h6": 0},
        "list_count": {"ordered": 1, "unordered": 2},
        "bold_count": {"**": 1, "__": 1},
    }


def test_lists_are_counted_as_the_benchmark_counts_them():
    """Its patterns, with \\s* in front, on 2,000 short texts of what a list begins with."""
    theirs = {"ordered": r"^\s*\d+\.\s", "unordered": r"^\s*[-*+]\s"}
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices("\n \t1.-*x\u2028\r\x0b", k=12))
        counted = style.markdown_counts(text)["list_count"]
        assert counted == {
            name: len(re.findall(pattern, text, re.MULTILINE)) for name, pattern in theirs.items()
        }, text


def test_long_texts_are_read_in_no_time():
    """200,000 characters. Each took minutes where a pattern tries every way to share them out."""
    begun = time.process_time()
    assert style.markdown_counts("\n" * 200_000 + "x")["list_count"] == {"ordered": 0, "unordered": 0}
    for text in ("[[" + "1" * 200_000, "[[1]" * 50_000, "[[" + "1" * 200_000 + "]]"):
        assert MtBench.read_verdict(text) is None or text.startswith("[[1]")
    assert ArenaHard.read_verdict("[[" + "A" * 200_000) is None
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    "reply",
    [
        (200, "[" * 100_000),
        (200, " " * 17_000_000),
        (200, gzip.compress(b"{}"), {"Content-Encoding": "gzip"}),
    ],
    ids=["brackets", "long", "compressed"],
)
def test_alpaca_evals_client_gives_up_on_what_no_judge_should_say(reply):
    """As a timeout, which the package asks again after and then counts."""
    client = httpx.Client(event_hooks={"response": [annotate.ending(5)]})
    with scripted_judge.serve(lambda request, n: reply) as judge, client, pytest.raises(httpx.ReadTimeout):
        client.post(judge.url, json={"model": "m"})


def test_alpaca_evals_client_passes_on_what_is_an_answer():
    client = httpx.Client(event_hooks={"response": [annotate.ending(5)]})
    with scripted_judge.serve(lambda request, n: "m") as judge, client:
        answer = client.post(judge.url, json={"model": "m"}).json()
    assert answer["choices"][0]["message"]["content"] == "m"


def test_arena_hard_by_hand():
    """Four questions. Game 0 has the baseline as A, game 1 the model as A.

    q1: B>>A, A>>B: wins 3 of 3 and 3 of 3. q2: A=B twice: 1/2 of 1 each. q3: A>>B and B>A: 0 of 3, 0 of 1.
    q4 lacks a verdict and is left out. Share: (6 + 1 + 0) / (6 + 2 + 4) = 7/12.
    Error: deviations 6 - 6*7/12 = 5/2, 1 - 2*7/12 = -1/6, 0 - 4*7/12 = -7/3;
    their squares add up to 25/4 + 1/36 + 49/9 = 422/36; times 3/2, root, over 12.
    """
    items = [Question(f"q{n}", "c", ("?",), {}) for n in (1, 2, 3, 4)]
    labels = {"q1": ("B>>A", "A>>B"), "q2": ("A=B", "B=A"), "q3": ("A>>B", "B>A"), "q4": ("A>B",)}
    verdicts = {f"{q}/{game}": label for q, both in labels.items() for game, label in enumerate(both)}
    found = ArenaHard.score(items, verdicts)
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
    assert ArenaHard.read_verdict(text) == label


def test_mt_bench_by_hand():
    """Question 1: 4 and 8, question 2: 6 alone: on average 6. The questions' means are 6 and 6: error 0."""
    items = [Question(str(n), category, ("a", "b"), {}) for n, category in ((1, "math"), (2, "stem"))]
    found = MtBench.score(items, {"1/0": 4.0, "1/1": 8.0, "2/0": 6.0})
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
    assert MtBench.read_verdict(text) == grade
