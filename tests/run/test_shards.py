"""The shards that a stage had finished when it was killed: used as they were written, or made again."""

import math
import shutil
from pathlib import Path

import fake_world
import pytest
from fake_world import interrupt

from dice.errors import BadInput, StageFailed
from dice.recipe import load
from dice.run.files import SEAL, read_rows
from dice.run.rows import Prompt
from dice.run.run import Run, create_run
from dice.stages import evaluate, generate, pair, score
from dice.stages.order import execute

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A judged round of the fake engine, of several shards."""
    folder = tmp_path_factory.mktemp("finished")
    settings = fake_world.make_settings(fake_world.make_data(folder / "data"), folder / "results")
    run = create_run(load.load_recipe("tiny", settings))
    for stage in (generate.STAGE, score.STAGE):
        execute(stage, run, 1)
    execute(evaluate.STAGE, run, 0)
    return run


@pytest.fixture
def run(finished, tmp_path) -> Run:
    shutil.copytree(finished.path, tmp_path / "tiny")
    return Run(tmp_path / "tiny", finished.recipe)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".json"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if "logs" not in path.parts}


def emptied(path: Path) -> None:
    path.write_text("")


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def reworded(path: Path) -> None:
    path.write_text(path.read_text().replace('"sample":1', '"sample":7').replace('"dropped"', '"x"') + " ")


def exchanged(path: Path) -> None:
    path.write_bytes(path.with_name(path.name.replace("00000", "00001")).read_bytes())


def unsealed(path: Path) -> None:
    """As by whoever copies a run without its hidden files."""
    path.with_name(f".{path.name}{SEAL}").unlink()


def gone(path: Path) -> None:
    path.unlink()


def with_another(path: Path) -> None:
    path.with_name("part-99999.jsonl").write_bytes(path.read_bytes())


OTHER_WAYS = [
    pytest.param(harm, marks=pytest.mark.slow) for harm in (emptied, cut, exchanged, gone, with_another)
]


@pytest.mark.parametrize("harm", [reworded, unsealed, *OTHER_WAYS])
@pytest.mark.parametrize(
    ("stage", "t", "name"),
    [
        (generate.STAGE, 1, "responses/part-00000.jsonl"),
        (score.STAGE, 1, "scores/part-00000.jsonl"),
        (score.STAGE, 1, "scores/dropped-00000.jsonl"),
        (evaluate.STAGE, 0, "responses/DPO/part-00000.jsonl"),
    ],
)
def test_a_shard_that_was_harmed_is_made_again(run, stage, t, name, harm):
    before = contents(stage.folder(run, t))
    folder = interrupt(stage, run, t)
    harm(folder / name)
    execute(stage, run, t)
    assert contents(folder) == before


def test_shards_that_are_whole_are_not_made_again(run, monkeypatch):
    folder = interrupt(generate.STAGE, run, 1)
    kept, again = folder / "responses" / "part-00000.jsonl", folder / "responses" / "part-00001.jsonl"
    times = kept.stat().st_mtime_ns, again.stat().st_mtime_ns
    again.write_text("")
    execute(generate.STAGE, run, 1)
    assert kept.stat().st_mtime_ns == times[0] and again.stat().st_mtime_ns != times[1]


def test_a_stage_that_is_done_leaves_the_next_ones_shards_alone(run):
    """As when a loop that was killed while it scored begins again: sampling is done before."""
    folder = interrupt(score.STAGE, run, 1)
    kept, again = folder / "scores" / "part-00000.jsonl", folder / "scores" / "part-00001.jsonl"
    times = kept.stat().st_mtime_ns, again.stat().st_mtime_ns
    again.write_text("")
    execute(generate.STAGE, run, 1)
    execute(score.STAGE, run, 1)
    assert kept.stat().st_mtime_ns == times[0] and again.stat().st_mtime_ns != times[1]
    assert not list(run.path.rglob(f".*{SEAL}"))


def test_a_shard_that_is_missing_after_all_is_no_dropped_prompt(run, monkeypatch):
    """As where a shared file system shows it too late."""
    folder = interrupt(generate.STAGE, run, 1)
    (folder / "responses" / "part-00000.jsonl").unlink()
    monkeypatch.setattr("dice.launch.processes.run_workers", lambda *_: None)
    with pytest.raises(StageFailed, match=r"part-00000.jsonl is missing"):
        execute(generate.STAGE, run, 1)
    count = sum(1 for _ in read_rows(folder / "prompts.jsonl", Prompt))
    assert math.ceil(count / run.recipe.generate.shard_size) > 1


def test_a_shard_that_was_added_is_named(run):
    """To a stage that is done: its rows would be read with the others."""
    folder = run.round_dir(1)
    (folder / "scores" / "part-99999.jsonl").write_bytes((folder / "scores/part-00000.jsonl").read_bytes())
    with pytest.raises(BadInput, match=r"scores/part-99999.jsonl was added since score of round 1 wrote it"):
        execute(pair.STAGE, run, 1)
    execute(score.STAGE, run, 1, force=True)
    execute(pair.STAGE, run, 1)


@pytest.mark.parametrize("quality", ["float('nan')", "float('inf')"])
def test_a_quality_that_is_no_number_is_named(run, tmp_path, quality):
    """It would count as lost, for both sides."""
    judge = tmp_path / "judge.py"
    judge.write_text(f"def quality(prompt, response):\n    return {quality}\n")
    run.recipe.evaluate.judge = f"{judge}:quality"
    with pytest.raises(BadInput, match=r"evaluate.judge gives (nan|inf) to an answer to .*must be finite"):
        execute(evaluate.STAGE, run, 0)
