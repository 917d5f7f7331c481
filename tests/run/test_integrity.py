"""Files that are not what their stage wrote are named, and not used."""

import hashlib
import json
import shutil
from pathlib import Path

import fake_world
import pytest
from commands import run_dice
from fake_world import interrupt

from dice.errors import BadInput, StageFailed
from dice.recipe import load
from dice.recipe.load import resolved_yaml
from dice.run import files
from dice.run.run import Run, create_run, open_run
from dice.stages import generate, pair, score, train
from dice.stages.checks import previous
from dice.stages.order import ROUND, STAGES, execute
from dice.tools.status import show_run

pytestmark = pytest.mark.slow

UNREADABLE = "/proc/self/mem"  # a file whose first byte can't be read, by nobody


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A round of the fake engine, and the second round's responses."""
    folder = tmp_path_factory.mktemp("finished")
    settings = fake_world.make_settings(fake_world.make_data(folder / "data"), folder / "results")
    run = create_run(load.load_recipe("tiny", settings))
    for stage in ROUND:
        execute(stage, run, 1)
    execute(generate.STAGE, run, 2)
    return run


@pytest.fixture
def run(finished, tmp_path) -> Run:
    shutil.copytree(finished.path, tmp_path / "tiny")
    return Run(tmp_path / "tiny", finished.recipe)


def edit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap(path: Path) -> None:
    path.write_bytes((path.parent / "other").read_bytes() if (path.parent / "other").exists() else b"{}\n")


FILES = {  # file -> its maker, and the stages that read it: (stage, round)
    "responses/part-00001.jsonl": ("generate", [("score", 1), ("pair", 1)]),
    "prompts.jsonl": ("generate", [("score", 1), ("pair", 1)]),
    "scores/part-00000.jsonl": ("score", [("pair", 1), ("train", 1)]),
    "scores/dropped-00000.jsonl": ("score", [("pair", 1), ("train", 1)]),
    "pairs.jsonl": ("pair", [("train", 1)]),
    "dataset/mixed.json": ("pair", [("train", 1)]),
    "model/config.json": ("train", [("generate", 2), ("score", 2), ("evaluate", 0)]),
}


OTHER_WAYS = [pytest.param(harm, marks=pytest.mark.slow) for harm in (truncate, swap)]


@pytest.mark.parametrize("harm", [edit, *OTHER_WAYS])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_harmed_is_named_by_its_maker_and_its_readers(run, name, harm):
    maker, readers = FILES[name]
    before = {path: path.read_bytes() for path in run.path.rglob("*.json*")}
    path = run.round_dir(1) / name
    harm(path)
    harmed = path.read_bytes()
    for stage, t in [(maker, 1), *readers]:
        with pytest.raises(BadInput) as caught:
            execute(STAGES[stage], run, t)
        message = str(caught.value)
        assert f"{path} was changed since {maker}" in message and "--force" in message
        assert len(message.splitlines()) == 1
        assert STAGES[stage].state(run, t).error == message
    path.write_bytes(before.pop(path))
    assert harmed != path.read_bytes()
    assert {one: one.read_bytes() for one in before} == before, "nothing else was touched"


def test_force_makes_it_again_and_what_follows(run):
    path = run.round_dir(1) / "responses" / "part-00001.jsonl"
    other = run.round_dir(1) / "responses" / "part-00000.jsonl"
    before, was = path.read_bytes(), other.stat().st_mtime_ns
    edit(path)
    for stage in ROUND:
        execute(stage, run, 1, force=True)
    assert path.read_bytes() == before and other.stat().st_mtime_ns == was


@pytest.mark.parametrize(
    ("file", "stage", "t", "message"),
    [
        ("pairs.jsonl", "pair", 2, "what replay.dataset names was changed since pair of round 1 read it"),
        ("prompts.json", "generate", 2, "what prompts names was changed since generate of round 1 read it"),
    ],
)
def test_data_that_was_edited_between_two_rounds_is_not_used(run, workers_here, file, stage, t, message):
    """The second round would be of other pairs or prompts than the first, and nothing would say so."""
    data = Path(run.recipe.dataset_dir) / file
    before = data.read_bytes()
    if stage == "pair":
        execute(score.STAGE, run, 2)
    try:
        data.write_bytes(before.replace(b"cats", b"dogs", 1))
        with pytest.raises(BadInput, match=message) as refused:
            execute(STAGES[stage], run, t, force=True)
        assert "put it back, or iter.sh --force" in str(refused.value)
    finally:
        data.write_bytes(before)
    assert execute(STAGES[stage], run, t).rows_out


@pytest.mark.slow
def test_force_makes_it_again_and_what_follows_of_edited_data(fake_run, workers_here):
    """As iter.sh --force does: round 1 first, then round 2 of the same pairs."""
    for stage in ROUND:
        execute(stage, fake_run, 1)
    data = Path(fake_run.recipe.dataset_dir) / "pairs.jsonl"
    data.write_bytes(data.read_bytes().replace(b"cats", b"dogs"))
    for t in (1, 2):
        for stage in ROUND:
            execute(stage, fake_run, t, force=True)
    first, second = (pair.STAGE.manifest(fake_run, t).inputs["offline pairs"] for t in (1, 2))
    assert first == second


def test_force_makes_a_list_of_what_was_dropped_again(run):
    path = run.round_dir(1) / "scores" / "dropped-00001.jsonl"
    before = path.read_bytes()
    path.write_text("{}\n")
    execute(score.STAGE, run, 1, force=True)
    assert path.read_bytes() == before


def test_a_file_that_was_added_to_a_model_is_named(run):
    """A chat template, say, would be put to use."""
    path = run.round_dir(1) / "model" / "chat_template.jinja"
    path.write_text("{{ messages }}")
    for stage, t in [("train", 1), ("generate", 2)]:
        with pytest.raises(BadInput, match="chat_template.jinja was added since train"):
            execute(STAGES[stage], run, t)
    execute(train.STAGE, run, 1, force=True)
    assert not path.exists()


def test_a_manifest_that_was_edited_is_named_and_force_makes_its_stage_again(run):
    path = run.round_dir(1) / "score.manifest.json"
    path.write_text(path.read_text().replace('"rows_out": ', '"rows_out": 1'))
    for stage in ("score", "pair"):
        with pytest.raises(BadInput, match="score.manifest.json: not as it was written, .*--force"):
            execute(STAGES[stage], run, 1)
    execute(score.STAGE, run, 1, force=True)
    execute(pair.STAGE, run, 1)


def test_without_its_manifest_nothing_is_thrown_away(run):
    (run.round_dir(1) / "generate.manifest.json").unlink()
    with pytest.raises(BadInput, match="what generate has made is there, but not its manifest; --force"):
        execute(generate.STAGE, run, 1)
    assert files.shards(run.round_dir(1) / "responses")


def test_a_training_that_was_over_is_not_repeated(run, monkeypatch):
    """Killed after its last step and before its manifest: only the rest is done."""
    folder = run.round_dir(1)
    work = folder / "train"
    interrupt(train.STAGE, run, 1)
    (folder / "model").rename(work)
    files.write_json(work / "rows.json", {"train": 12, "eval": 0})
    log = [{"loss": 0.6, "rewards/accuracies": 0.5, "step": 1}]
    files.write_json(work / "trainer_state.json", {"log_history": log})
    (work / "model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr("dice.stages.train.trainer.train", lambda *_: pytest.fail("it trains again"))
    recipe = run.recipe.model_copy(deep=True)
    recipe.generate.engine, recipe.train.global_batch_size = "hf", 4
    outcome = train._run(Run(run.path, recipe), 1)
    assert outcome.rows_out == 12
    assert (folder / "model" / "model.safetensors").read_bytes() == b"weights" and work.is_dir()
    log[0]["loss"] = float("nan")
    files.write_json(work / "trainer_state.json", {"log_history": log})
    with pytest.raises(StageFailed, match="diverged: at step 1 its loss is no number"):
        train._run(Run(run.path, recipe), 1)


def test_a_stage_refuses_what_was_made_with_another_recipe(run):
    """By hand, out of order: the recipe was changed, but its first stage has not run again."""
    changed = Run(run.path, load.load_recipe("tiny", [*settings_of(run), "generate.top_p=0.5"]))
    with pytest.raises(
        BadInput, match=r"generate was done with another recipe \(generate.top_p 1.0 -> 0.5\)"
    ):
        execute(score.STAGE, changed, 1)


def settings_of(run: Run) -> list[str]:
    data = Path(run.recipe.dataset_dir)
    return [word for word in fake_world.make_settings(data, run.path.parent)]


def test_another_prompts_file_is_noticed(run):
    data = Path(run.recipe.dataset_dir)
    prompts = data / "prompts.json"
    before = prompts.read_text()
    prompts.write_text(json.dumps(json.loads(before)[:-1]))
    with pytest.raises(BadInput, match=r"generate was done with something else \(prompts changed\); --force"):
        execute(generate.STAGE, run, 1)
    prompts.write_text(before)
    execute(generate.STAGE, run, 1)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["generate.manifest.json", "generate.started.json"])
def test_what_can_not_be_read_is_not_made_anew(run, name, force):
    """A disk that fails (a file that answers EIO): not even --force throws finished work away for it."""
    folder = run.round_dir(1)
    before = {shard: shard.read_bytes() for shard in files.shards(folder / "responses")}
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(UNREADABLE)
    with pytest.raises(BadInput, match=rf"{name}: can't be read \(Input/output error\)") as caught:
        execute(generate.STAGE, run, 1, force)
    assert "--force" not in str(caught.value) and (folder / name).is_symlink()
    assert {shard: shard.read_bytes() for shard in files.shards(folder / "responses")} == before


def test_a_recipe_that_can_not_be_read_is_not_taken_for_none(run):
    (run.path / "recipe.yaml").unlink()
    (run.path / "recipe.yaml").symlink_to(UNREADABLE)
    recipe = run.recipe.model_copy(update={"results_dir": str(run.path.parent)})
    for look in (lambda: open_run(run.path), lambda: previous(recipe)):
        with pytest.raises(BadInput, match=r"recipe.yaml: can't be read \(Input/output error\)"):
            look()


def test_a_recipe_that_was_edited_is_refused_until_it_is_put_back(run):
    path = run.path / "recipe.yaml"
    before = path.read_text()
    path.write_text(before.replace("gamma: 0.5", "gamma: 0.25"))
    assert path.read_text() != before
    for words in (["status", str(run.path), "--check"], ["pair", str(run.path), "1"]):
        told = run_dice(*words)
        assert told.returncode == 2, told.stdout
        assert (
            told.stderr.startswith(f"error: {path}: not as it was written") and told.stderr.count("\n") == 1
        )
    path.write_text(before)
    assert open_run(run.path).recipe == run.recipe


def test_a_recipe_without_a_digest_is_one_of_before(run, capsys):
    path = run.path / "recipe.yaml"
    digest, _, rest = path.read_text().partition("\n")
    assert digest == f"# sha256 of what follows: {hashlib.sha256(rest.encode()).hexdigest()}"
    assert rest == resolved_yaml(run.recipe)
    path.write_text(rest)
    opened = open_run(run.path)
    assert opened.recipe == run.recipe and not show_run(opened, check=True)
    assert "recipe.yaml has no digest, as those of earlier versions" in capsys.readouterr().out


def test_status_checks_every_file(run):
    result = run_dice("status", str(run.path), "--check")
    assert result.returncode == 0 and "every file is what its stage wrote" in result.stdout
    edit(run.round_dir(1) / "model" / "config.json")
    (run.round_dir(1) / "pairs.jsonl").unlink()
    result = run_dice("status", str(run.path), "--check")
    assert result.returncode == 1
    assert "round-1/model/config.json was changed" in result.stdout
    assert "round-1/pairs.jsonl is missing" in result.stdout
