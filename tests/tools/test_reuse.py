"""What a run takes over from those beside it."""

import pytest

from dice.run import files
from dice.run.run import create_run
from dice.run.stage import Outcome, Stage, execute
from dice.stages import evaluate
from dice.tools import reuse
from dice.tools.ablation import grid

pytestmark = pytest.mark.slow


@pytest.fixture
def stage():
    """A stage that writes its setting into a file."""

    def run(run, t):
        files.write_text(run.round_dir(t) / "out" / "text", str(run.recipe.seed))
        return Outcome(1, 1, "wrote")

    return Stage("write", lambda run, t: {}, lambda run, t: {"seed": run.recipe.seed}, ("out",), run)


@pytest.fixture
def runs(fake_settings):
    """Makes runs beside each other."""

    def run(name, seed=1):
        made = grid.load("tiny", [*fake_settings, f"run={name}", f"seed={seed}"])
        return create_run(made)

    return run


def test_a_stage_is_taken_over_where_its_manifest_would_be_the_same(stage, runs):
    first, second = runs("first"), runs("second")
    execute(stage, first, 1)
    assert reuse.take_over(stage, second, 1, [runs("other", seed=2), first]) == first
    paths = [run.round_dir(1) / "out" / "text" for run in (first, second)]
    assert paths[0].samefile(paths[1])
    manifest = stage.manifest(second, 1)
    assert manifest.shared_from == str(first.round_dir(1))
    assert execute(stage, second, 1) == manifest  # done before

    files.write_text(paths[1], "something else")  # as everything is written: the file is replaced
    assert paths[0].read_text() == "1"


def test_sampling_is_taken_over_though_an_agreement_is_still_to_be_measured(fake_settings, monkeypatch):
    run = create_run(grid.load("tiny", [*fake_settings, "evaluate.preferences=some_pairs"]))
    tried = []

    def take_over(stage, run, t, others):
        tried.append((stage.name, t))
        return run if stage.name == "generate" else None

    monkeypatch.setattr(reuse, "take_over", take_over)
    reuse.reuse(run)
    assert tried == [("agree", 0), ("generate", 1), ("score", 1)]


def test_nothing_is_taken_over_that_is_another_or_damaged_or_begun(stage, runs):
    first, second, third = runs("first"), runs("second"), runs("third", seed=3)
    execute(stage, first, 1)
    assert reuse.take_over(stage, third, 1, [first]) is None  # another setting
    files.write_json(second.round_dir(1) / "write.started.json", {})
    assert reuse.take_over(stage, second, 1, [first]) is None  # this run's own has begun
    (second.round_dir(1) / "write.started.json").unlink()
    files.write_text(first.round_dir(1) / "out" / "text", "damaged")
    assert reuse.take_over(stage, second, 1, [first]) is None
    assert not (second.round_dir(1) / "out").exists()


def test_answers_of_the_models_that_runs_begin_with_are_taken_over(runs, workers_here, monkeypatch):
    """Those of a model that only one of them has are sampled; what comes out is the same."""
    first, second, third = runs("first"), runs("second"), runs("third", seed=3)
    expected = execute(evaluate.STAGE, first, 0)
    begins_with = evaluate.models(second)
    monkeypatch.setattr(evaluate, "models", lambda run: begins_with | {"other": "fake-other"})
    for run in (second, third):
        reuse.take_over_answers(run, [first])
    assert not third.path.joinpath("evaluate").exists()  # another seed
    manifest = execute(evaluate.STAGE, second, 0)
    assert manifest.figures["results"][:2] == expected.figures["results"]
    for name in expected.outputs:
        ours, theirs = (run.path / "evaluate" / name for run in (second, first))
        assert ours.samefile(theirs) is name.startswith("responses/")
    assert {name.split("/")[1] for name in manifest.outputs if name.startswith("responses/")} == {
        "SFT", "DPO", "other",
    }  # fmt: skip
