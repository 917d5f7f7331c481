"""The five states of a stage, and setting its outputs aside for another recipe, whenever it is killed."""

from pathlib import Path

import pytest
from fake_world import write_manifest

from dice.run import files
from dice.run.state import StageFiles, State

OLD, NEW = ({"inputs": {}, "recipe": {"seed": seed}} for seed in (1, 2))


@pytest.fixture
def stage(tmp_path) -> StageFiles:
    """A stage that has written a file and a folder for the recipe `OLD`."""
    for name in ("pairs.jsonl", "dataset/mixed.json"):
        files.write_text(tmp_path / name, "old")
    digest = "cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4"  # printf old | sha256sum
    outputs = {"pairs.jsonl": digest, "dataset/mixed.json": digest}
    write_manifest(tmp_path, "pair", **OLD, outputs=outputs)
    return StageFiles(tmp_path, "pair", ("pairs.jsonl", "dataset"))


def test_every_state_is_told(tmp_path):
    stage = StageFiles(tmp_path, "pair")
    assert stage.state().state is State.NEVER_BEGUN
    assert not stage.begin(NEW) and stage.begin(NEW)  # the second time it goes on
    found = stage.state()
    assert (found.state, found.basis, found.error) == (State.BEGUN, NEW, "") and found.begun_at > 0
    stage.fail("no pairs\nat all")
    assert (stage.state().state, stage.state().error) == (State.FAILED, "no pairs\nat all")
    assert stage.begin(NEW) and stage.state().state is State.BEGUN


def test_what_is_done_and_what_was_damaged_since(stage):
    assert stage.state(thorough=True).state is State.DONE
    files.write_text(stage.folder / "pairs.jsonl", "new")
    assert stage.state().state is State.DONE  # nothing is missing
    assert stage.state(thorough=True).damage == {"pairs.jsonl": "was changed"}
    files.write_text(stage.folder / "dataset" / "more.json", "")
    (stage.folder / "pairs.jsonl").unlink()
    assert stage.state().reasons == ["pairs.jsonl is missing"]
    found = stage.state(thorough=True)
    assert found.damage == {"pairs.jsonl": "is missing", "dataset/more.json": "was added"}
    assert found.state is State.DAMAGED and found.was_done and found.manifest
    files.write_text(stage.manifest_path, "{}")
    found = stage.state()
    assert found.state is State.DAMAGED and found.was_done and not found.manifest
    assert "pair.manifest.json: not as it was written" in found.unreadable


class Killed(Exception):
    """As by SIGKILL."""


@pytest.fixture
def kill(monkeypatch):
    """Makes the n-th move of a file from now on the last."""

    def after(moves: int) -> None:
        left, replace = [moves], Path.replace

        def last(path: Path, target: Path) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            replace(path, target)

        monkeypatch.setattr(Path, "replace", last)

    yield after
    monkeypatch.undo()


def contents(folder: Path) -> dict[str, str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in found}


@pytest.mark.parametrize("moves", range(3))
def test_a_kill_while_it_is_set_aside_loses_nothing(stage, kill, monkeypatch, moves):
    """The next attempt is with either recipe; whatever is restored in the end is what was there."""
    before = contents(stage.folder)
    kill(moves)
    with pytest.raises(Killed):
        stage.set_aside()
    monkeypatch.undo()
    stage.restore(NEW)  # goes on with setting it aside, if it has begun
    if moves:
        assert stage.state().state is State.NEVER_BEGUN
        assert not any((stage.folder / name).exists() for name in stage.outputs)
    else:
        assert stage.state().state is State.DONE
        stage.set_aside()
    stage.begin(NEW)
    files.write_text(stage.folder / "pairs.jsonl", "new")
    stage.restore(NEW)
    assert (stage.folder / "pairs.jsonl").read_text() == "new"
    kill(moves)
    with pytest.raises(Killed):
        stage.restore(OLD)
    monkeypatch.undo()
    stage.restore(OLD)
    assert contents(stage.folder) == before and stage.state(thorough=True).state is State.DONE


@pytest.mark.parametrize("moves", range(1, 3))
def test_a_kill_while_it_is_set_aside_is_undone_by_its_own_recipe(stage, kill, monkeypatch, moves):
    before = contents(stage.folder)
    kill(moves)
    with pytest.raises(Killed):
        stage.set_aside()
    monkeypatch.undo()
    stage.restore(OLD)
    assert contents(stage.folder) == before


def test_what_was_replaced_goes_when_the_new_outputs_are_done(stage):
    stage.set_aside()
    stage.begin(NEW)
    write_manifest(stage.folder, "pair", **NEW)
    stage.restore(OLD)  # killed before the old ones were removed
    assert stage.manifest().basis == NEW
    stage.finish(stage.manifest())
    assert list(contents(stage.folder)) == ["pair.manifest.json"]
