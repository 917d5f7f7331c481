"""A run that is started again with another recipe: nothing done is lost, or taken for the new one's."""

import json
import os
import shutil

import pytest

from dice.errors import BadInput
from dice.run import files, lock
from dice.run.run import open_run
from dice.stages import generate, score
from dice.stages.order import execute, run_stage
from dice.stages.prepare import hold, start


@pytest.fixture
def sets(data_dir):
    """Registers another prompt set, and the same one under another name."""
    path = data_dir / "dataset_info.json"
    registry = json.loads(path.read_text())
    (data_dir / "other.json").write_text('[{"instruction": "Another?"}]')
    other = {"file_name": "other.json", "columns": {"prompt": "instruction"}}
    path.write_text(json.dumps(registry | {"other": other, "same": registry["some_prompts"]}))


@pytest.mark.parametrize(
    "word", ["policy=fake-other", "reference=fake-other", "prompts=other", "dataset_dir={elsewhere}"]
)
def test_other_models_and_prompts_are_another_recipe(
    fake_settings, sets, data_dir, tmp_path, workers_here, word
):
    elsewhere = shutil.copytree(data_dir, tmp_path / "elsewhere")
    (elsewhere / "prompts.json").write_text('[{"instruction": "Why?"}]')
    word = word.format(elsewhere=elsewhere)
    run = start("tiny", fake_settings)
    execute(generate.STAGE, run, 1)
    execute(score.STAGE, run, 1)
    before = (run.path / "recipe.yaml").read_bytes()
    with pytest.raises(BadInput, match=" of round 1.* would have to run again with this recipe; --force"):
        start("tiny", [*fake_settings, word])
    assert (run.path / "recipe.yaml").read_bytes() == before
    start("tiny", [*fake_settings, word], force=True)
    assert (run.path / "recipe.yaml").read_bytes() != before


def test_another_name_of_the_same_prompts_is_the_same_recipe(fake_settings, sets, workers_here):
    made = execute(generate.STAGE, start("tiny", fake_settings), 1)
    run = start("tiny", [*fake_settings, "prompts=same"])
    assert execute(generate.STAGE, run, 1) == made


def test_fewer_rounds_with_a_list_of_prompts(fake_settings, sets, workers_here):
    """Rounds that are there beyond those of the recipe are left alone."""
    run = start("tiny", [*fake_settings, "rounds=2"])
    made = execute(generate.STAGE, run, 1)
    files.write_json(run.round_dir(2) / "generate.manifest.json", json.loads(made_at(run).read_text()))
    again = start("tiny", [*fake_settings, "rounds=1", "prompts=[same]"])
    assert execute(generate.STAGE, again, 1) == made


def made_at(run):
    return run.round_dir(1) / "generate.manifest.json"


def test_the_earlier_recipe_brings_back_what_another_has_not_replaced(
    fake_settings, workers_here, monkeypatch
):
    run = start("tiny", fake_settings)
    for stage in (generate.STAGE, score.STAGE):
        execute(stage, run, 1)
    made = {path: path.read_bytes() for path in (run.round_dir(1) / "responses").glob("part-*")}
    other = start("tiny", [*fake_settings, "generate.temperature=0.5"], force=True)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("dice.launch.processes.run_workers", interrupted)
        execute(generate.STAGE, other, 1, force=True)
    assert not any(path.exists() for path in made)
    with pytest.raises(BadInput, match="generate of round 1.* would have to run again"):
        start("tiny", [*fake_settings, "policy=fake-other"])  # the earlier settings, but for the policy
    execute(generate.STAGE, start("tiny", fake_settings), 1)
    assert {path: path.read_bytes() for path in made} == made


def interrupted(*_):
    raise KeyboardInterrupt


def test_a_loop_sees_the_recipe_that_another_start_has_just_written(fake_settings, monkeypatch):
    run = start("tiny", fake_settings)
    opened = open_run(run.path)
    start("tiny", [*fake_settings, "pair.alpha=0.5"])
    descriptor = os.open(run.path / ".lock", os.O_RDWR | os.O_CREAT)
    monkeypatch.setenv(lock.INHERITED, str(descriptor))
    with pytest.raises(BadInput, match="another iter.sh has just begun it with another recipe"):
        hold(opened, "tiny", fake_settings)
    os.close(descriptor)


def test_an_agreement_after_a_round_that_there_is_not(fake_settings, workers_here):
    run = start("tiny", [*fake_settings, "evaluate.preferences=some_pairs"])
    for t in (7, "one", -1):
        with pytest.raises(BadInput, match="round"):
            run_stage("agree", run, t)
    assert run_stage("agree", run, 0).rows_out == 20
