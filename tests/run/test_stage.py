"""Manifests: skipping, running again, going on."""

import os
from dataclasses import replace

import pytest

from dice.errors import BadInput
from dice.run.lock import locked
from dice.run.manifests import differences
from dice.run.stage import Outcome, Stage, execute


@pytest.fixture
def stage(fake_run):
    """A stage that writes a file and counts how often it ran; `basis` is what it depends on."""
    calls, basis = [], {"inputs": {"data": "1"}, "settings": {"alpha": 1}}

    def run(run, t):
        calls.append(t)
        (run.round_dir(t) / "out").mkdir(exist_ok=True)
        (run.round_dir(t) / "out" / f"shard-{len(calls)}").write_text("x")
        if basis.get("fails"):
            raise RuntimeError("broken")
        return Outcome(1, 1, "one row", {"too long": 2})

    made = Stage(
        "demo",
        lambda *_: dict(basis["inputs"]),
        lambda *_: dict(basis["settings"]),
        outputs=("out",),
        run=run,
        parts=("out/shard-*",),
    )
    return made, calls, basis, fake_run.round_dir(1)


def test_a_finished_stage_is_skipped(stage, fake_run, capsys):
    made, calls, _, folder = stage
    manifest = execute(made, fake_run, 1)
    assert "one row" in capsys.readouterr().out
    assert manifest.dropped == {"too long": 2} and manifest.rows_out == 1
    assert manifest.outputs.keys() == {"out/shard-1"}
    assert manifest.versions["torch"] and manifest.inputs == {"data": "1"}
    assert execute(made, fake_run, 1) == manifest
    assert "done before: one row" in capsys.readouterr().out
    assert calls == [1] and not (folder / "demo.started.json").exists()


def test_another_input_or_setting_runs_it_again_from_nothing(stage, fake_run, capsys):
    made, calls, basis, folder = stage
    execute(made, fake_run, 1)
    basis["settings"]["alpha"] = 2
    execute(made, fake_run, 1, force=True)
    assert "runs again: alpha 1 -> 2" in capsys.readouterr().out
    basis["inputs"]["data"] = "2"
    execute(made, fake_run, 1, force=True)
    assert "runs again: data changed" in capsys.readouterr().out
    assert [path.name for path in (folder / "out").iterdir()] == ["shard-3"]
    assert len(calls) == 3


def test_finished_work_is_not_thrown_away_unasked(stage, fake_run):
    """Another recipe, other inputs, a changed file: one line, and everything stays."""
    made, calls, basis, folder = stage
    execute(made, fake_run, 1)
    basis["settings"]["alpha"] = 2
    with pytest.raises(BadInput, match=r"demo was done with something else \(alpha 1 -> 2\); --force makes"):
        execute(made, fake_run, 1)
    basis["settings"]["alpha"], basis["inputs"]["data"] = 1, "2"
    with pytest.raises(BadInput, match=r"something else \(data changed\)"):
        execute(made, fake_run, 1)
    basis["inputs"]["data"] = "1"
    (folder / "out" / "shard-1").write_text("y")
    with pytest.raises(
        BadInput, match="out/shard-1 was changed since demo wrote it; put it back, or --force"
    ):
        execute(made, fake_run, 1)
    assert (folder / "out" / "shard-1").read_text() == "y"
    (folder / "out" / "shard-1").write_text("x")
    execute(made, fake_run, 1)
    assert calls == [1]


def test_shards_of_an_unfinished_stage_are_not_thrown_away_either(stage, fake_run):
    made, calls, basis, folder = stage
    basis["fails"] = True
    with pytest.raises(RuntimeError):
        execute(made, fake_run, 1)
    basis["settings"]["alpha"] = 2
    with pytest.raises(BadInput, match=r"demo has begun with something else \(alpha 1 -> 2\)"):
        execute(made, fake_run, 1)
    (folder / "out" / "shard-1").unlink()  # nothing to lose
    basis["fails"] = False
    execute(made, fake_run, 1)
    assert len(calls) == 2


def test_what_costs_nothing_runs_again_without_asking(stage, fake_run):
    made, calls, basis, _ = stage
    cheap = replace(made, expendable=True)
    execute(cheap, fake_run, 1)
    basis["inputs"]["data"] = "2"
    execute(cheap, fake_run, 1)
    assert len(calls) == 2


def test_a_broken_stage_goes_on_with_its_own_files_only(stage, fake_run):
    made, _, basis, folder = stage
    basis["fails"] = True
    for _ in range(2):
        with pytest.raises(RuntimeError):
            execute(made, fake_run, 1)
    assert not (folder / "demo.manifest.json").exists()
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["shard-1", "shard-2"]
    basis["inputs"]["data"], basis["fails"] = "2", False  # what was begun belongs to other inputs
    assert not execute(made, fake_run, 1, force=True).resumed
    assert [path.name for path in (folder / "out").iterdir()] == ["shard-3"]


def test_a_stage_that_went_on_says_so(stage, fake_run):
    """Its seconds are of a part."""
    made, _, basis, _ = stage
    basis["fails"] = True
    with pytest.raises(RuntimeError):
        execute(made, fake_run, 1)
    basis["fails"] = False
    assert execute(made, fake_run, 1).resumed


def test_a_missing_output_runs_it_again(stage, fake_run):
    made, calls, _, folder = stage
    execute(made, fake_run, 1)
    (folder / "out" / "shard-1").unlink()
    (folder / "out").rmdir()
    with pytest.raises(BadInput, match="out/shard-1 is missing since demo wrote it"):
        execute(made, fake_run, 1)
    execute(made, fake_run, 1, force=True)
    assert len(calls) == 2


def test_a_changed_output_runs_it_again(stage, fake_run, capsys):
    made, calls, _, folder = stage
    execute(made, fake_run, 1)
    (folder / "out" / "shard-1").write_text("y")
    execute(made, fake_run, 1, force=True)
    assert "runs again: out/shard-1 was changed" in capsys.readouterr().out
    assert len(calls) == 2 and not (folder / "out" / "shard-1").exists()


def test_a_recipe_that_comes_to_nothing_costs_nothing(stage, fake_run, capsys):
    """Outputs are set aside for another recipe, not deleted, and come back with their own."""
    made, calls, basis, folder = stage
    first = execute(made, fake_run, 1)
    basis["settings"]["alpha"], basis["fails"] = "nonsense", True
    for _ in range(2):
        with pytest.raises(RuntimeError):
            execute(made, fake_run, 1, force=True)
    basis["settings"]["alpha"] = 1
    assert execute(made, fake_run, 1, force=True) == first and len(calls) == 3
    assert [path.name for path in folder.rglob("shard-*")] == ["shard-1"]
    basis["settings"]["alpha"], basis["fails"] = 2, False
    execute(made, fake_run, 1, force=True)
    assert [path.name for path in folder.rglob("shard-*")] == ["shard-4"], "superseded outputs go at last"


def test_a_run_belongs_to_one_process(stage, fake_run, monkeypatch):
    monkeypatch.setattr("dice.run.lock.GRACE", 0.0)
    made, calls, _, _ = stage
    with locked(fake_run.path), pytest.raises(BadInput, match=f"process {os.getpid()} on .* is at work"):
        execute(made, fake_run, 1)
    assert not calls
    execute(made, fake_run, 1)
    assert (fake_run.path / ".lock").read_text() == ""


def test_differences_in_words():
    before = {"inputs": {"policy": "x"}, "recipe": {"seed": 1, "pair": {"alpha": "auto"}}}
    after = {"inputs": {"policy": "y"}, "recipe": {"seed": 1, "pair": {"alpha": 0.1}}}
    assert differences(before, after) == ["policy changed", "pair.alpha auto -> 0.1"]
    assert differences(after, after) == []
