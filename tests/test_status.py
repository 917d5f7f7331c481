"""What `status` says of a run: done, running, interrupted, failed and why."""

import os

import pytest

from dice import generate, status, store
from dice.errors import StageFailed
from dice.lock import locked
from dice.stage import Outcome, Stage, execute


def told(run: store.Run, capsys) -> str:
    status.show_run(run)
    return capsys.readouterr().out


@pytest.fixture
def begun(fake_run):
    """Round 1 with two shards of responses, its stage not finished."""
    folder = fake_run.round_dir(1)
    store.write_json(folder / "generate.started.json", {})
    for number in range(2):
        store.write_text(store.shard_path(folder / "responses", number), "{}\n")
    return fake_run


def test_a_run_that_nobody_works_on(begun, capsys):
    text = told(begun, capsys)
    assert "nobody is at work on it" in text
    assert "interrupted, 2 shards written; goes on from there" in text


def test_a_run_that_is_worked_on(begun, capsys):
    progress = begun.round_dir(1) / "generate.progress"
    store.write_text(progress / "0.json", "[30, 100, 0]")
    store.write_text(progress / "1.json", "[20, 0, 0]")
    with locked(begun.path):
        text = told(begun, capsys)
    assert f"process {os.getpid()} on " in text and "is at work on it" in text
    assert "running, 50 of 100, 2 shards written" in text


def test_what_failed_and_why(fake_run, capsys):
    def fail(run, t):
        raise StageFailed("generate failed (killed by SIGKILL). [red]The end of its log:\n    line\n")

    broken = Stage("generate", lambda *_: {}, lambda *_: {}, ("responses",), fail)
    with pytest.raises(StageFailed):
        execute(broken, fake_run, 1)
    text = told(fake_run, capsys)
    assert "failed; why is told below" in text
    assert (
        "round 1, generate: generate failed (killed by SIGKILL). [red]The end of its log:\n    line" in text
    )
    works = Stage("generate", lambda *_: {}, lambda *_: {}, (), lambda *_: Outcome(1, 1, "one row"))
    execute(works, fake_run, 1)
    assert "one row" in told(fake_run, capsys) and "told below" not in told(fake_run, capsys)


def test_what_is_done(fake_run, capsys):
    execute(generate.STAGE, fake_run, 1)
    text = told(fake_run, capsys)
    assert "80 responses to 10 prompts" in text and text.count("to do") == 8
