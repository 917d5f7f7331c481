"""Atomic files, shards, and which model is which."""

import os

import pytest

from dice.errors import BadInput
from dice.recipe import load
from dice.run import files
from dice.run.digests import file_digest
from dice.run.rows import Prompt
from dice.run.run import create_run, open_run


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "rows.jsonl"
    files.write_text(path, "old\n")

    def lines():
        yield "new\n"
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError):
        files.write_text(path, lines())
    assert path.read_text() == "old\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_are_read_back_and_errors_name_the_line(tmp_path):
    rows = [Prompt(str(i), [{"role": "user", "content": f"line\u2028{i}"}]) for i in range(3)]
    files.write_rows(tmp_path / "p.jsonl", rows)
    assert list(files.read_rows(tmp_path / "p.jsonl", Prompt)) == rows
    assert files.count_rows(tmp_path / "p.jsonl") == 3
    with (tmp_path / "p.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(BadInput, match="p.jsonl:4: not a Prompt row"):
        list(files.read_rows(tmp_path / "p.jsonl", Prompt))


def test_models_of_rounds(fake_run):
    """Round t trains the model of round t-1; its reference is what that one was trained from."""
    model = lambda t: str(fake_run.path / f"round-{t}" / "model")  # noqa: E731
    assert (fake_run.policy(1), fake_run.reference(1)) == ("fake-dpo", "fake-sft")
    assert (fake_run.policy(2), fake_run.reference(2)) == (model(1), "fake-dpo")
    assert (fake_run.policy(3), fake_run.reference(3)) == (model(2), model(1))


def test_a_run_is_found_by_its_folder(fake_run, tmp_path):
    assert open_run(fake_run.path).recipe == fake_run.recipe
    with pytest.raises(BadInput, match="no run here"):
        open_run(tmp_path / "nothing")


def test_create_run_writes_the_resolved_recipe(fake_settings):
    run = create_run(load.load_recipe("tiny", [*fake_settings, "seed=7"]))
    assert "seed: 7" in (run.path / "recipe.yaml").read_text()


def test_create_run_removes_what_a_killed_start_left(fake_run):
    """Found by tests/crash.py: no stage looks beside the rounds."""
    (fake_run.path / ".recipe.yaml.123.tmp").write_text("half a rec")
    create_run(fake_run.recipe)
    assert not list(fake_run.path.glob("*.tmp"))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe never ends, a folder is no file, a link may lead to itself."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in (
        ("pipe", "not a file"),
        ("folder", "not a file"),
        ("loop", "not a file"),
        ("no", "no such"),
    ):
        path = tmp_path / name
        assert files.read_json(path) is None
        for read in (lambda path: list(files.read_rows(path, Prompt)), files.count_rows, file_digest):
            with pytest.raises(BadInput, match=f"{name}: {reason}"):
                read(path)


def test_a_pipe_is_no_recipe_of_a_run(tmp_path):
    """Opening it would wait for somebody to write into it."""
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(BadInput, match="no run here"):
        open_run(tmp_path)


def test_json_that_is_nested_too_deeply_is_none(tmp_path):
    (tmp_path / "deep.json").write_text('{"a":' * 100_000)
    assert files.read_json(tmp_path / "deep.json") is None
