"""The judge: its prompt, how its answers are read, and a server that behaves in all kinds of ways."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dice.errors import BadInput
from dice.rewards import judge_server
from dice.rewards.grades import grade_of
from dice.rewards.judge import PROMPT, conversation, question
from dice.rewards.judge_server import Served
from dice.rewards.source import Asked
from dice.run.rows import Message


@pytest.mark.parametrize(
    "answer, grade",
    [
        ("All right, but one animal is missing.\nGrade: 3", 3),
        ("**Grade:** 4", 4),
        ("grade = 2.5", 2.5),
        ("Grade: 4/5", 4),
        ("I'd say Grade: 1 at first; on reflection\nGrade: 5.", 5),
        ("4", 4),
        (" 3 / 5\n", 3),
        ("0", 0),
        ("Grade: 6", None),
        ("Grade: 8/10", None),
        ("Grade: 35", None),
        ("Grade: none", None),
        ("Grade (0-5): 4", 4),
        ("**Grade** (out of 5): **4**, all in all", 4),
        ('{"grade": 4, "why": "good"}', 4),
        ("Grade: 4 out of 5", 4),
        ("Grade:\n4", 4),
        ("Grade: 4 (grade 5 would need more)", 4),
        ("Grade: 4 (grade: 5 would need more)", 4),
        ("Grade: 2\nThe grade: as above.", 2),
        ("<think>Grade: 5</think> 2", 2),
        ("<think>Grade: 5</think>", None),
        ("<think>Is it 3? Grade: 3", None),
        ("Grade 4", None),
        ("Grade: -3", None),
        ("-2", None),
        ("\N{MINUS SIGN}2", None),
        ("Grade: 3\nGrade: -3", None),
        ("Grade: 4 out of 10", None),
        ("Grade (0-10): 4", None),
        ("Grade: 4/50", None),
        ("Grade: 3-4", None),
        ("3 \N{EN DASH} 4", None),
        ("Grade: 3 or 4", None),
        ("Grade: 4%", None),
        ("4 percent", None),
        ("Grade: 4,5", None),
        ("Grade: 4.5.1", None),
        ("There are 3 animals.", None),
        ("", None),
    ],
)
def test_grades_are_read(answer, grade):
    assert grade_of(answer) == grade


@pytest.mark.parametrize(
    "answer",
    [
        "grade" + " " * 200_000,
        "grade(" * 33_000,
        "grade(0" * 28_000,
        "grade*" * 33_000,
        "grade:" + "\n" * 200_000,
        "grade: 4 " + "-" * 200_000 + " 5",
        "1" * 200_000,
        " " * 100_000 + "4" + " " * 100_000 + "x",
    ],
    ids=lambda answer: answer[:12],
)
def test_a_long_answer_is_read_in_no_time(answer):
    """200,000 characters. Each took minutes where a pattern tries every way to share them out."""
    begun = time.process_time()
    assert grade_of(answer) is None
    assert time.process_time() - begun < 1


def test_conversations_as_text():
    question = {"role": "user", "content": "Name a dog."}
    assert conversation([question]) == "Name a dog."
    turns = [{"role": "system", "content": "Be brief."}, question, {"role": "assistant", "content": "Rex"}]
    assert conversation(turns) == "System: Be brief.\n\nUser: Name a dog.\n\nAssistant: Rex"


class Script(BaseHTTPRequestHandler):
    """Answers as the server's `say(number of the request, body)` says: (status, text or JSON, seconds)."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((body, self.headers["Authorization"], self.path))
            number = len(self.server.requests)
        status, content, seconds = self.server.say(number, body)
        time.sleep(seconds)
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = content if isinstance(content, bytes) else json.dumps({"choices": [choice]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(judge_server, "WAIT", 0.001)


@pytest.fixture
def scripted(monkeypatch):
    """Starts a server that follows a script; its requests are kept."""
    started = []

    def start(say):
        made = ThreadingHTTPServer(("127.0.0.1", 0), Script)
        made.say, made.requests, made.lock = say, [], threading.Lock()
        threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True).start()
        started.append(made)
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{made.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        return made

    yield start
    for made in started:
        made.shutdown()
        made.server_close()


@pytest.fixture
def served(fake_run):
    """Makes the judge of a recipe with these settings."""

    def make(**settings):
        score = {"reward": "judge", "judge": "some-model", "judge_samples": 2} | settings
        return Served(fake_run.recipe.score.model_copy(update=score))

    return make


def ask(judged, *texts):
    answers = {}
    questions = [Asked(text, [Message(role="user", content=text)], 100 * n) for n, text in enumerate(texts)]
    judged.ask(questions, answers.__setitem__)
    return [answers[index] for index in range(len(texts))]


def test_what_a_server_is_asked_and_what_it_says(scripted, served):
    grades = {"good?": "Grade: 3", "better?": "Grade: 4"}
    made = scripted(lambda number, body: (200, grades[body["messages"][0]["content"]], 0))
    assert ask(served(), "good?", "better?") == [["Grade: 3"] * 2, ["Grade: 4"] * 2]
    bodies = sorted((body for body, _, _ in made.requests), key=lambda body: str(body["messages"]))
    assert len(bodies) == 4 and bodies[-1]["messages"] == [{"role": "user", "content": "good?"}]
    assert (bodies[0]["model"], bodies[0]["temperature"], bodies[0]["max_tokens"]) == ("some-model", 0.7, 64)
    assert {(key, path) for _, key, path in made.requests} == {("Bearer sk-secret", "/v1/chat/completions")}


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_fails_for_a_while_is_tried_again(scripted, served, status):
    made = scripted(lambda number, body: (status if number < 4 else 200, "Grade: 2", 0))
    assert ask(served(judge_samples=1), "good?") == [["Grade: 2"]]
    assert len(made.requests) == 4


def test_a_slow_answer_is_asked_for_again(scripted, served):
    made = scripted(lambda number, body: (200, "Grade: 2", 6 if number == 1 else 0))
    assert ask(served(judge_samples=1, judge_timeout=2), "good?") == [["Grade: 2"]]
    assert len(made.requests) == 2


@pytest.mark.parametrize("nonsense", [b"not JSON", b"[]", b'{"choices": []}', b'{"choices": null}', b"null"])
def test_nonsense_is_no_answer(scripted, served, nonsense):
    scripted(lambda number, body: (200, nonsense if "good" in str(body["messages"]) else "Grade: 1", 0))
    assert ask(served(), "good?", "fine?") == [[], ["Grade: 1"] * 2]


def test_a_request_that_is_refused_is_no_answer_and_not_repeated(scripted, served):
    made = scripted(lambda number, body: (400, b'{"error": "too long"}', 0))
    assert ask(served(), "good?") == [[]]
    assert len(made.requests) == 2


def test_refusals_are_no_fault_of_a_judge_that_has_answered_before(scripted, served):
    """In another shard, or before an interruption: what is left may be what it refuses."""
    scripted(lambda number, body: (200, "Grade: 1", 0) if "good?" in str(body) else (400, b"too long", 0))
    judge, others = served(judge_concurrency=2), [*map(str, range(8))]
    with pytest.raises(BadInput, match=r"none of the last 4 questions \(HTTP status 400"):
        ask(judge, *others)
    assert ask(judge, "good?") == [["Grade: 1"] * 2]
    assert ask(judge, *others) == [[]] * 8


@pytest.mark.parametrize("status, what", [(401, "refuses the key"), (404, "does not know this address or")])
def test_a_server_that_does_not_let_us_in_ends_the_stage(scripted, served, status, what):
    made = scripted(lambda number, body: (status, b'{"error": "your key sk-secret"}', 0))
    with pytest.raises(BadInput, match=what) as refused:
        ask(served(), "good?")
    assert "secret" not in str(refused.value) and str(made.server_port) not in str(refused.value)


def test_a_server_that_is_down_ends_the_stage(monkeypatch, served):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(BadInput, match=r"answered none of the last 8 questions \(no connection") as down:
        ask(served(judge_concurrency=4), *map(str, range(30)))
    assert "127.0.0.1" not in str(down.value)


def test_no_more_requests_at_once_than_asked_for(scripted, served):
    running, most, lock = [0], [0], threading.Lock()

    def say(number, body):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return 200, "Grade: 1", 0

    scripted(say)
    ask(served(judge_concurrency=3), *map(str, range(12)))
    assert 1 < most[0] <= 3


def test_a_served_judge_needs_an_address(monkeypatch, served):
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="set OPENAI_BASE_URL"):
        served()


def test_a_prompt_has_everything_in_its_places():
    """A conversation that has {response} in it stays as it is."""
    turns = [Message(role="user", content="What is {response}?")]
    (asked,) = question(PROMPT, turns, "a {prompt}")
    assert "=== Conversation ===\nWhat is {response}?\n" in asked["content"]
    assert "=== Answer ===\na {prompt}\n" in asked["content"] and asked["content"].endswith("Grade: N")


def test_a_prompt_without_places_is_the_next_turn():
    turns = [Message(role="user", content="Name a dog.")]
    asked = question("How good was that?", turns, "Rex")
    assert [turn["role"] for turn in asked] == ["user", "assistant", "user"]
    assert [turn["content"] for turn in asked] == ["Name a dog.", "Rex", "How good was that?"]
