"""What `status` says of a run: done, running, interrupted, failed and why."""

import os

import pytest
from commands import run_python
from machines_here import free_port

from dice.errors import BadInput, StageFailed
from dice.launch import machines
from dice.run import files, lock
from dice.run.lock import locked
from dice.run.run import Run
from dice.run.stage import Outcome, Stage
from dice.stages import generate
from dice.stages.order import execute
from dice.tools import status


def told(run: Run, capsys) -> str:
    status.show_run(run)
    return capsys.readouterr().out


@pytest.fixture
def begun(fake_run):
    """Round 1 with two shards of responses, its stage not finished."""
    folder = fake_run.round_dir(1)
    files.write_json(folder / "generate.started.json", {})
    for number in range(2):
        files.write_text(files.shard_path(folder / "responses", number), "{}\n")
    return fake_run


def test_a_check_needs_a_run():
    with pytest.raises(BadInput, match="--check needs a run"):
        status.show(None, check=True)


def test_a_run_that_nobody_works_on(begun, capsys):
    text = told(begun, capsys)
    assert "nobody is at work on it" in text
    assert "interrupted, 2 shards written; goes on from there" in text


def test_a_run_that_is_worked_on(begun, capsys):
    progress = begun.round_dir(1) / "generate.progress"
    files.write_text(progress / "0.json", "[30, 100, 0]")
    files.write_text(progress / "1.json", "[20, 0, 0]")
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


def test_a_failure_before_there_is_anything(fake_run, data_dir, capsys):
    (data_dir / "prompts.json").unlink()
    with pytest.raises(BadInput):
        execute(generate.STAGE, fake_run, 1)
    text = told(fake_run, capsys)
    assert "failed; why is told below" in text and "round 1, generate: " in text and "prompts.json" in text


@pytest.mark.parametrize(
    ("error", "word"), [(ValueError("odd"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_an_error_that_nobody_expected(fake_run, capsys, error, word):
    def fail(run, t):
        raise error

    with pytest.raises(type(error)):
        execute(Stage("generate", lambda *_: {}, lambda *_: {}, ("responses",), fail), fake_run, 1)
    text = told(fake_run, capsys)
    assert word in text and ("round 1, generate: ValueError: odd" in text) == (word == "failed")


@pytest.mark.slow
def test_a_node_that_does_not_come(fake_run, monkeypatch, capsys):
    values = {"NNODES": 2, "NODE_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(machines, "PATIENCE", 0.1)
    with pytest.raises(StageFailed):
        execute(generate.STAGE, fake_run, 1)
    assert "round 1, generate: node 1 has not come to generate of round 1" in told(fake_run, capsys)


def test_a_run_that_another_process_has_is_not_written_to(begun, monkeypatch):
    monkeypatch.setattr(lock, "GRACE", 0)
    with locked(begun.path), pytest.raises(BadInput, match="is at work on this run"):
        execute(generate.STAGE, begun, 1)
    assert not (begun.round_dir(1) / "generate.failed.json").exists()


def test_only_what_was_begun_last_is_running(begun, capsys):
    files.write_json(begun.path / "evaluate" / "evaluate.started.json", {})
    os.utime(begun.path / "evaluate" / "evaluate.started.json", (1, 1))
    with locked(begun.path):
        text = told(begun, capsys)
    assert text.count("running") == text.count("interrupted") == 1
    assert "running" in next(line for line in text.splitlines() if "generate" in line)


def test_whoever_may_only_read_a_run_sees_who_is_at_work(begun):
    script = "import os, sys; from pathlib import Path; from dice.run import lock; os.chdir(sys.argv[1])\n"
    script += "if not os.getuid(): os.setuid(65534)\n"
    script += "print(os.access('.lock', os.W_OK), lock.holder(Path('.')))"
    with locked(begun.path):
        (begun.path / ".lock").chmod(0o444)
        result = run_python(script, str(begun.path))
    assert result.stdout.startswith(f"False process {os.getpid()} on "), result.stderr


def test_a_list_of_runs_of_which_one_is_spoiled(begun, tmp_path, monkeypatch, capsys):
    (tmp_path / "results" / "a").mkdir()
    (tmp_path / "results" / "a" / "recipe.yaml").write_text("[")
    monkeypatch.setattr(status, "resolve", tmp_path.joinpath)
    status.show_all()
    first, second = capsys.readouterr().out.splitlines()
    assert "/a: can't be read: " in first and "0 of 8 stages done" in second


@pytest.fixture
def preparing(tmp_path, monkeypatch):
    """A preparation's counts, of the run `results/mine` in a checkout of the test's own."""
    told = {"run": str(tmp_path / "results" / "mine"), "log": "/x/start.log"}
    monkeypatch.setattr(status, "PREPARING", tmp_path / "preparing.json")
    monkeypatch.setattr(status, "ROOT", tmp_path)
    files.write_json(tmp_path / "preparing.json", {**told, "unit": "steps", "done": 120, "total": 1400})
    return told


def test_a_preparation_that_is_at_work(preparing, tmp_path, capsys):
    with lock.alone(tmp_path):
        assert status.show_preparation(preparing["run"])
        assert (
            capsys.readouterr().out == f"{preparing['run']}: preparing: step 120 of 1,400; log /x/start.log\n"
        )
        assert not status.show_preparation(str(tmp_path / "results" / "another"))
        status.show_all()
        assert "preparing: step 120 of 1,400" in capsys.readouterr().out
        files.write_text(tmp_path / "results" / "mine" / "recipe.yaml", "")
        assert not status.show_preparation(preparing["run"])  # its stages are told


def test_a_preparation_that_was_killed(preparing, capsys):
    """Its counts are left, but nobody is at work."""
    assert not status.show_preparation(preparing["run"])
    status.show_all()
    assert "preparing" not in capsys.readouterr().out


def test_counts_of_other_things_than_steps(preparing, tmp_path, capsys):
    files.write_json(tmp_path / "preparing.json", {**preparing, "unit": "prompts", "done": 30, "total": 160})
    with lock.alone(tmp_path):
        assert status.show_preparation(preparing["run"])
    assert "preparing: 30 of 160 prompts" in capsys.readouterr().out
