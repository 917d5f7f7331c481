"""Asking a judge that is down, slow, busy, or talks nonsense."""

import asyncio
import gzip
import resource
import time

import pytest
import scripted_judge

from dice.errors import BadInput, StageFailed
from dice.rewards.openai_client import OPENAI, Answer, Server, ask_all, environment

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "Which?"}]


def number(text):
    return int(text) if text.isdigit() else None


def ask(url, count=1, **changes):
    """Answers to `count` equal questions, in their order."""
    server = Server("judge-model", url, **{"key": "sk-secret", "wait": 0.001, "attempts": 3} | changes)
    found = {}
    ask_all(server, [QUESTION] * count, number, lambda index, answer: found.__setitem__(index, answer))
    return [found[index] for index in range(count)]


def test_a_request_is_what_the_protocol_wants():
    with scripted_judge.serve(lambda request, n: "7") as judge:
        assert ask(judge.url, options={"temperature": 0.0, "max_tokens": 5}) == [Answer("7", 7)]
    assert judge.requests == [
        {"model": "judge-model", "messages": QUESTION, "temperature": 0.0, "max_tokens": 5}
    ]
    assert judge.headers[0]["Authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in repr(Server("m", judge.url, "sk-secret")) and judge.url not in repr(
        Server("m", judge.url, "sk-secret")
    )


@pytest.mark.parametrize("trouble", [(503, "busy"), (429, "slow down"), (200, "no JSON"), "not a number"])
def test_trouble_that_passes_is_asked_again(trouble):
    with scripted_judge.serve(lambda request, n: trouble if n < 2 else "4") as judge:
        assert ask(judge.url) == [Answer("4", 4)]
    assert len(judge.requests) == 3


@pytest.mark.parametrize(
    ("trouble", "answer", "asked"),
    [
        ((503, "busy"), Answer("", None, "HTTP status 503"), 3),
        ((400, "too long"), Answer("", None, "HTTP status 400"), 1),  # it would say the same again
        ((200, "no JSON"), Answer("", None, "an answer that is no chat completion"), 3),
        ("not a number", Answer("not a number", None), 3),
    ],
)
def test_trouble_that_stays_is_reported(trouble, answer, asked):
    with scripted_judge.serve(lambda request, n: trouble) as judge:
        assert ask(judge.url) == [answer]
    assert len(judge.requests) == asked


COMPRESSED = "an answer that is compressed (gzip), though none was asked for"
HALF = '{"choices": [{"message": {"content": "\\ud800"}}]}'  # JSON, and half a character


@pytest.mark.parametrize(
    ("trouble", "answer"),
    [
        ((200, "[" * 100_000), Answer("", None, "an answer that is no chat completion")),
        ((200, '{"choices":' * 100_000), Answer("", None, "an answer that is no chat completion")),
        ((200, "1" * 10_000), Answer("", None, "an answer that is no chat completion")),
        ((200, b"\xff\xfe\x00"), Answer("", None, "an answer that is no chat completion")),
        ((200, HALF), Answer("?", None)),
        ((200, gzip.compress(b"{}"), {"Content-Encoding": "gzip"}), Answer("", None, COMPRESSED)),
        ((200, " " * 17_000_000), Answer("", None, "an answer of more than 16,777,216 bytes")),
        ((429, "busy", {"Retry-After": "\N{SUPERSCRIPT TWO}"}), Answer("", None, "HTTP status 429")),
        (
            (429, "busy", {"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"}),
            Answer("", None, "HTTP status 429"),
        ),
        ((302, "", {"Location": "http://127.0.0.1:9/"}), Answer("", None, "HTTP status 302")),
    ],
)
def test_what_no_judge_should_say_is_an_answer_that_is_counted(trouble, answer):
    with scripted_judge.serve(lambda request, n: trouble) as judge:
        assert ask(judge.url, attempts=2, readings=1) == [answer]
    assert judge.headers[0]["Accept-Encoding"] == "identity"


@pytest.mark.slow
def test_a_reply_is_not_unpacked():
    """256 MiB in little gzip: the memory of this process grows by less than a fifth of it."""
    bomb, before = gzip.compress(bytes(1 << 28), 1), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with scripted_judge.serve(lambda request, n: (200, bomb, {"Content-Encoding": "gzip"})) as judge:
        assert ask(judge.url, attempts=1)[0].failure == COMPRESSED
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_slow_judge_is_not_waited_for():
    def say(request, n):
        time.sleep(6 if n == 0 else 0)
        return "3"

    with scripted_judge.serve(say) as judge:
        assert ask(judge.url, timeout=2) == [Answer("3", 3)]


def test_a_judge_that_only_keeps_the_line_open_is_not_waited_for():
    with scripted_judge.dripping(seconds=2) as url:
        assert ask(url, timeout=0.15, attempts=2) == [Answer("", None, "no answer in 0.15 s")]


def test_a_judge_that_is_down_ends_it_and_keeps_the_address_to_itself():
    with pytest.raises(StageFailed, match=r"none of the last 4 questions \(no connection") as told:
        ask("http://127.0.0.1:9/v1", count=50, concurrency=2)
    assert "127.0.0.1" not in str(told.value)


def test_refused_questions_among_others_end_nothing():
    """Twenty quick refusals in a row, beside an answer that takes its time."""

    def say(request, n):
        time.sleep(0.2 if n == 1 else 0)
        return "3" if n < 2 or n > 21 else (400, "too long")

    with scripted_judge.serve(say) as judge:
        found = ask(judge.url, count=30, concurrency=2)
    assert [answer.refused for answer in found].count(True) == 20
    assert [answer.value for answer in found].count(3) == 10
    refusing = scripted_judge.serve(lambda request, n: (400, "too long"))
    with (
        refusing as judge,
        pytest.raises(StageFailed, match=r"none of the last 4 questions \(HTTP status 400"),
    ):
        ask(judge.url, count=30, concurrency=2)


def test_a_judge_that_is_out_of_money_ends_it():
    say = lambda request, n: "3" if n < 4 else (402, "Insufficient Balance")  # noqa: E731
    with scripted_judge.serve(say) as judge, pytest.raises(StageFailed, match="HTTP status 402"):
        ask(judge.url, count=30, concurrency=2)


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_it_at_once(status):
    with (
        scripted_judge.serve(lambda request, n: (status, "bad key sk-secret")) as judge,
        pytest.raises(BadInput, match=f"HTTP status {status}") as told,
    ):
        ask(judge.url, count=50, concurrency=4)
    assert len(judge.requests) <= 8 and "sk-secret" not in str(told.value)


def test_as_many_are_asked_at_once_as_wanted():
    at_once, most = 0, 0

    def say(request, n):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.02)
        at_once -= 1
        return str(n)

    with scripted_judge.serve(say) as judge:
        assert sorted(answer.value for answer in ask(judge.url, count=20, concurrency=4)) == [*range(20)]
    assert 2 <= most <= 4


def test_what_broke_in_between_is_passed_on():
    with scripted_judge.serve(lambda request, n: "1") as judge, pytest.raises(ZeroDivisionError):
        ask_all(Server("m", judge.url, None), [QUESTION] * 9, number, lambda index, answer: 1 // 0)
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def test_the_environment_names_the_judge(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert environment() is None
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    assert environment() == (OPENAI, "sk")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://here/v1/")
    assert environment() == ("http://here/v1", "sk")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OPENAI_BASE_URL", "judge.example:8000/v1"),
        ("OPENAI_BASE_URL", "http://localhost:99999/v1"),
        ("OPENAI_BASE_URL", "http://[::1"),
        ("OPENAI_BASE_URL", "http:///v1"),
        ("OPENAI_BASE_URL", " http://judge.example/v1"),
        ("OPENAI_API_KEY", "kéy-secret"),
        ("OPENAI_API_KEY", "key\nsecret"),
    ],
)
def test_an_address_or_a_key_that_can_not_be(monkeypatch, name, value):
    for variable in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=f"^{name} is no ") as told:
        environment()
    assert value not in str(told.value)
