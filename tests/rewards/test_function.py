"""Rewards of a function of the user's: what it is given, and what it may not do."""

import time

import pytest
from fake_world import write_manifest

from dice.errors import BadInput
from dice.launch.worker import Worker
from dice.recipe.load import load_recipe
from dice.rewards import function
from dice.rewards.function import call, load_function
from dice.rewards.scoring import scored, settings, work
from dice.run import files
from dice.run.rows import Prompt, Response, prompt_id
from dice.run.run import create_run, open_to_work
from dice.stages import data_checks, generate, score
from dice.stages.order import execute

TEXTS = [("What is 2 + 2?", "4"), ("What is 3 + 3?", "7")]


def test_one_response_at_a_time_or_all_of_them():
    """The same rewards, 1 where the response is the sum of the question's numbers."""
    from ast import literal_eval

    def one(prompt, response):
        return sum(literal_eval(part) for part in prompt[8:-1].split(" + ")) == int(response)

    def many(prompts, responses):
        return [one(*pair) for pair in zip(prompts, responses, strict=True)]

    assert call(one, "f", TEXTS, 5) == call(many, "f", TEXTS, 5) == [1.0, 0.0]
    assert call(many, "f", [], 5) == []


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda prompt, response: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda prompt, response: exit(3), "SystemExit"),
        (lambda prompt, response: float("nan"), "gives nan or inf; a reward must be a finite number"),
        (lambda prompt, response: None, "TypeError: float.. argument must be"),
        (lambda prompts, responses: [1.0], "1 values for 2 responses"),
        (lambda prompts, responses: 1.0, "TypeError: .*not.* iterable|TypeError: Value after"),
        (lambda prompts, responses: [1.0, float("inf")], "gives nan or inf"),
        (lambda prompts, responses: "12", "TypeError: gives a str, not a list of numbers"),
        (lambda prompts, responses: {1: 0.5, 2: 0.5}, "TypeError: gives a dict, not a list of numbers"),
        (max, "ValueError: could not convert string to float"),  # its parameters are not known
    ],
)
def test_what_a_function_must_not_do(function, told):
    with pytest.raises(BadInput, match=f"^reward function f.py:f on 'What is 2 .*: ({told})") as refused:
        call(function, "f.py:f", TEXTS, 5)
    assert "\n" not in str(refused.value)


def test_a_function_that_never_returns_is_ended():
    def stubborn(prompt, response):
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue

    with pytest.raises(BadInput, match="f on 'What is 2 .*: no answer in 0.05 seconds"):
        call(stubborn, "f", TEXTS, 0.05)
    time.sleep(0.06)  # the alarm of a call that has ended rings no more
    assert call(lambda prompt, response: 2, "f", TEXTS, 0.05) == [2.0, 2.0]


def test_a_function_that_swallows_the_alarm_is_ended_by_the_next(monkeypatch):
    monkeypatch.setattr(function, "AGAIN", 0.05)

    def deaf(prompt, response):
        try:
            while True:
                time.sleep(0.01)
        except:  # noqa: E722
            while True:
                time.sleep(0.01)

    with pytest.raises(BadInput, match="no answer in 0.05 seconds"):
        call(deaf, "f", TEXTS, 0.05)


def test_a_file_of_some_size(tmp_path):
    """A dataclass and a module beside it, as in a script that is run by itself."""
    (tmp_path / "beside_the_rewards.py").write_text("FACTOR = 2\n")
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from beside_the_rewards import FACTOR\n"
        "@dataclass\nclass Answer:\n    text: str\n"
        "def length(prompt, response):\n    return FACTOR * len(Answer(response).text)\n"
    )
    assert load_function("score.reward", f"{tmp_path / 'mine.py'}:length")("", "four") == 8
    (tmp_path / "script.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(BadInput, match=r"script.py can't be run \(SystemExit: 0\)"):
        load_function("score.reward", f"{tmp_path / 'script.py'}:length")


def test_a_folder_with_a_colon_in_its_name(tmp_path):
    (tmp_path / "a:b").mkdir()
    (tmp_path / "a:b" / "mine.py").write_text("def length(prompt, response):\n    return len(response)\n")
    assert load_function("score.reward", f"{tmp_path}/a:b/mine.py:length")("", "four") == 4


def test_where_the_function_is_must_be_right(fake_settings, tmp_path):
    spec = f"{tmp_path / 'mine.py'}:length"
    recipe = load_recipe("tiny", [*fake_settings, f"score.reward={spec}"])
    with pytest.raises(BadInput, match="score.reward .*mine.py does not exist"):
        data_checks.check_names(recipe)
    (tmp_path / "mine.py").write_text("def length(prompt, response):\n    return len(response)\n")
    data_checks.check_names(recipe)
    assert load_function("score.reward", spec)("", "four") == 4
    (tmp_path / "mine.py").write_text("def length(response):\n    return len(response)\n")
    with pytest.raises(BadInput, match="called with a prompt and a response, but too many positional arg"):
        data_checks.check_names(recipe)
    for wrong in ("length", "mine.py", "mine.txt:length"):
        with pytest.raises(BadInput, match="it must be 'implicit', .*'random' or path/to/file.py:function"):
            load_recipe("tiny", [*fake_settings, f"score.reward={wrong}"])


@pytest.fixture
def of_length(fake_settings, tmp_path):
    """A run whose rewards are the responses' lengths; its round 1 has two of them."""
    (tmp_path / "mine.py").write_text("def length(prompt, response):\n    return len(response)\n")
    words = [*fake_settings, f"score.reward={tmp_path / 'mine.py'}:length"]
    run = create_run(load_recipe("tiny", words))
    asked = [{"role": "user", "content": "Hi"}]
    folder, name = run.round_dir(1), prompt_id(asked)
    files.write_rows(folder / "prompts.jsonl", [Prompt(name, asked)])
    rows = [Response(name, n, text, len(text), 1, "stop", 0) for n, text in enumerate(("word", "a word"))]
    files.write_rows(files.shard_path(folder / "responses", 0), rows)
    write_manifest(folder, "generate", recipe=generate.STAGE.settings(run, 1))
    return run


def test_a_round_s_rewards(of_length, tmp_path):
    work(Worker(0, 1, 0, tmp_path / "progress"), str(of_length.path), "1")
    assert [row.reward for row in scored(of_length, 1)] == [4.0, 6.0]
    assert settings(of_length.recipe)["reward"].endswith("mine.py:length")
    before = score.STAGE.inputs(of_length, 1)["reward function"]
    (tmp_path / "mine.py").write_text("def length(prompt, response):\n    return -len(response)\n")
    assert score.STAGE.inputs(of_length, 1)["reward function"] != before


def test_the_code_of_a_run_that_is_not_trusted_is_not_run(of_length, workers_here, monkeypatch):
    for name in ("DICE_IN_LOOP", "DICE_TRUST_RUN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="score.reward is .*mine.py:length: that is code, .*DICE_TRUST_RUN=1"):
        open_to_work(of_length.path)
    monkeypatch.setenv("DICE_TRUST_RUN", "1")
    assert open_to_work(of_length.path).recipe == of_length.recipe
    assert execute(score.STAGE, of_length, 1).figures["mean_reward"] == 5.0
