"""`report_to` of a recipe: what loggers get, once each, and what happens where they can't."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import logged
import pytest
import wandb_server
from commands import run_script
from doctored import found
from loops import loop
from reported import CURVES, write_evaluation, write_round

from dice.__main__ import ForUsers
from dice.errors import BadInput
from dice.recipe.load import load_recipe
from dice.run import files
from dice.run.run import create_run
from dice.stages import train
from dice.stages.prepare import start
from dice.tools.doctor.findings import FAULT
from dice.tools.loggers.entries import COLUMNS, Entry, entries_of, table
from dice.tools.loggers.ledger import ordered

LOGGERS = ("wandb", "tensorboard", "mlflow")
KEY = "0123456789abcdef0123456789abcdef01234567"
FIRST, SECOND, THIRD = (Entry("round", t, {"pair/alpha": t / 10}) for t in (1, 2, 3))


def installed(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not importlib.util.find_spec(name), reason=f"{name} is not installed: pip install -e '.[loggers]'"
    )


EACH = pytest.mark.parametrize("logger", [pytest.param(name, marks=installed(name)) for name in LOGGERS])


@pytest.fixture
def quiet(monkeypatch):
    """No network, and nothing of the user's own settings."""
    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("none", []),
        ("null", []),
        ("[]", []),
        ("wandb", ["wandb"]),
        ("[tensorboard,mlflow]", ["tensorboard", "mlflow"]),
    ],
)
def test_a_recipe_names_loggers(fake_settings, given, read):
    assert load_recipe("tiny", [*fake_settings, f"report_to={given}"]).report_to == read


def test_a_logger_that_there_is_not(fake_settings):
    with pytest.raises(BadInput, match="report_to is 'neptune'; it must be .*wandb.*tensorboard.*mlflow"):
        load_recipe("tiny", [*fake_settings, "report_to=neptune"])


@pytest.mark.parametrize("logger", LOGGERS)
def test_a_logger_that_is_not_installed_is_refused_before_anything_is_sampled(
    fake_settings, monkeypatch, logger
):
    monkeypatch.setitem(sys.modules, logger, None)  # how Python notes down that there is no such module
    settings = [*fake_settings, f"report_to={logger}"]
    refusal = f"report_to needs {logger}, which is not installed: pip install -e '.[loggers]'"
    finding = found("loggers", *settings)
    assert finding.level == FAULT and finding.refused and refusal in finding.what
    with pytest.raises(BadInput) as refused:
        start("tiny", settings)
    assert str(refused.value).endswith(refusal)
    assert not load_recipe("tiny", settings).run_dir.exists()


def test_a_folder_that_a_logger_has_written_to_is_no_package(fake_settings, monkeypatch, tmp_path):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert "which is not installed" in found("loggers", *fake_settings, "report_to=wandb").what


@pytest.mark.parametrize(
    ("own", "of_run", "left"),
    [
        ("none", "wandb", "none"),
        ("wandb", "none", "wandb"),
        ("wandb", "wandb", "none"),
        ("wandb", "tensorboard", "wandb"),
        ("[wandb,tensorboard]", "wandb", ["tensorboard"]),
        ("[wandb]", "wandb", "none"),
    ],
)
def test_a_training_has_no_run_of_its_own_in_a_logger_of_the_whole_run(fake_settings, own, of_run, left):
    """Which is what the training file asks for, and what is left of it."""
    recipe = load_recipe("tiny", [*fake_settings, f"train.report_to={own}", f"report_to={of_run}"])
    config = train.base_config(recipe, recipe.train.args, "policy", recipe.run_dir, 1, "round-1")
    assert config["report_to"] == left


@pytest.fixture
def run(fake_run):
    """Two rounds and an evaluation."""
    for t in (1, 2):
        write_round(fake_run, t)
    write_evaluation(fake_run, (0.6, 0.62, 0.02, 101.0), (0.7, 0.66, 0.02, 102.0))
    return fake_run


def test_entries_are_what_the_manifests_say(run):
    entries = entries_of(run)
    at = {(entry.axis, entry.step, name): value for entry in entries for name, value in entry.figures.items()}
    assert (at["round", 1, "pair/alpha"], at["round", 2, "generate/cut_off"]) == (0, 1)
    assert (at["round", 2, "pair/margins/50"], at["round", 1, "score/mean_reward"]) == (4.0, 0.75)
    assert at["round", 1, "score/dropped/under_4_characters"] == 2
    losses = {step: value for (_, step, name), value in at.items() if name == "curves/loss"}
    assert losses == {10: 0.7, 20: 0.6, 30: 0.7, 40: 0.6}  # round 2 goes on where round 1 ended
    assert at["global_step", 40, "curves/eval_loss"] == 0.65 and CURVES.count("eval_loss") == 1
    qualities = {step: value for (_, step, name), value in at.items() if name == "evaluate/quality"}
    assert qualities == {-1: 0.4, 0: 0.5, 1: 0.6, 2: 0.7}
    assert {entry.step for entry in entries if entry.pairs} == {1, 2}


def test_a_run_that_is_not_finished_has_what_is_there(fake_run):
    write_round(fake_run)
    assert {entry.step for entry in entries_of(fake_run) if entry.axis == "round"} == {1}


def test_pairs_as_a_table(run):
    path = run.round_dir(1) / "pairs.jsonl"
    first = dict(zip(COLUMNS, table(path)[0], strict=True))
    assert (first["prompt"], first["chosen"], first["rejected"]) == ("first", "bbbbbb", "cc")
    assert (first["chosen_reward"], first["rejected_shaped"]) == (3.0, -2.0)
    row = json.loads(path.read_text().splitlines()[0])
    row["messages"] = [{"role": "system", "content": "Be kind."}, *row["messages"]]
    row["chosen"] = "half of a pair: \ud83d"  # which no UTF-8 can be made of
    path.write_text(json.dumps(row))
    (first,) = table(path)
    assert first[1:3] == ["system: Be kind.\n\nuser: first", "half of a pair: ?"]


def test_entries_keep_their_order(tmp_path):
    """A round that comes after an evaluation, say: what a logger has stays at the beginning."""
    path = tmp_path / "wandb.json"
    name, entries = ordered(path, [FIRST, THIRD])
    assert entries == [FIRST, THIRD]
    assert ordered(path, [FIRST, SECOND, THIRD]) == (name, [FIRST, THIRD, SECOND])
    assert ordered(path, [FIRST, SECOND, THIRD]) == (name, [FIRST, THIRD, SECOND])


def test_a_round_that_was_made_anew_begins_another_run(tmp_path):
    path = tmp_path / "wandb.json"
    name, _ = ordered(path, [FIRST, SECOND])
    other, entries = ordered(path, [FIRST, replace(SECOND, figures={"pair/alpha": 0.5})])
    assert other != name and [entry.figures["pair/alpha"] for entry in entries] == [0.1, 0.5]
    assert ordered(path, entries) == (other, entries)


@pytest.mark.parametrize("in_loop", [True, False])
def test_only_the_loop_tells_loggers(run, monkeypatch, in_loop):
    """Somebody else's run may name some."""
    run.recipe.report_to, commands = ["wandb"], []
    create_run(run.recipe)
    monkeypatch.setattr("dice.tools.loggers.run_logged", lambda command, *_: commands.append(command))
    monkeypatch.setattr("dice.tools.report.write_report", lambda *_: None)
    ForUsers().report(str(run.path), quick=True, in_loop=in_loop)
    assert [command[-1] for command in commands] == ["wandb"] * in_loop


def files_in(run) -> Path:
    """The folder of loggers in a run's."""
    folder = run.path / "loggers"
    folder.mkdir(exist_ok=True)
    return folder


def send(run, logger) -> None:
    """As the loop does it, in a process of its own."""
    files_in(run)
    sent = run_script(sys.executable, "-m", "dice.tools.loggers", str(run.path), logger)
    assert sent.returncode == 0, sent.stderr


@pytest.mark.slow
@EACH
def test_a_logger_has_every_figure_once(run, quiet, logger):
    """Also if it was sent in parts, and again with nothing new."""
    later = run.path.with_name("later")
    shutil.move(run.round_dir(2), later)
    send(run, logger)
    shutil.move(later, run.round_dir(2))
    send(run, logger)
    send(run, logger)
    assert logged.require_equal(run.path, logger) > 100
    if logger != "tensorboard":
        assert logged.pairs_of(run.path, logger, 2) == table(run.round_dir(2) / "pairs.jsonl")


@pytest.mark.slow
@installed("tensorboard")
def test_pairs_as_a_table_on_a_page(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = run.round_dir(1) / "pairs.jsonl"
    rows = [json.loads(line) | {"chosen": "a|b\n\nc"} for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows * 15))  # 30 pairs
    send(run, "tensorboard")
    events = EventAccumulator(str(run.path / "loggers" / "tensorboard")).Reload()
    page = events.Tensors("pairs/text_summary")[0].tensor_proto.string_val[0].decode().splitlines()
    assert len(page) == 22 and "| first | a\\|b c | cc | 3.0 | -2.0 |" in page[2]


@pytest.mark.slow
@installed("wandb")
def test_a_server_of_wandb_gets_each_row_once(run, quiet, monkeypatch, tmp_path):
    """Also where what it had got was not noted down, as after a kill."""
    from dice.tools.loggers import to_wandb

    entries = [replace(entry, pairs=None) for entry in entries_of(run)]  # tables are files, and not for it
    folder = files_in(run)
    with wandb_server.serving() as (address, history):
        for name, value in {"MODE": "online", "BASE_URL": address, "API_KEY": KEY}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        for count in (5, len(entries), len(entries)):
            to_wandb.send(run.recipe, entries[:count], folder)
            ((name, rows),) = history.items()
            assert [row["_step"] for row in rows] == [*range(count)]
    for entry, row in zip(entries, rows, strict=True):
        assert entry.figures.items() <= row.items() and row[entry.axis] == entry.step
    assert json.loads((folder / "wandb.json").read_text())["id"] == name
    written = [path.read_bytes() for path in run.path.rglob("*") if path.is_file()]
    assert not [content for content in written if KEY.encode() in content]


@pytest.mark.slow
@installed("mlflow")
def test_a_server_that_goes_away_gets_the_rest_the_next_time(run, quiet, monkeypatch):
    import mlflow

    from dice.tools.loggers import to_mlflow

    folder, sent = run.path / "loggers", []
    log_batch = mlflow.MlflowClient.log_batch

    def fail_in_the_middle(*arguments, **options):
        sent.append(arguments)
        if len(sent) == 6:
            raise ConnectionError("gone")
        log_batch(*arguments, **options)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail_in_the_middle)
    with pytest.raises(ConnectionError):
        to_mlflow.send(run.recipe, entries_of(run), folder)
    to_mlflow.send(run.recipe, entries_of(run), folder)
    logged.require_equal(run.path, "mlflow")


@pytest.mark.slow
@EACH
def test_a_logger_that_can_not_be_reached_is_one_line(run, quiet, logger, monkeypatch):
    if logger == "tensorboard":
        files.write_text(run.path / "loggers" / "tensorboard", "no folder")
    monkeypatch.delenv("WANDB_MODE")
    run.recipe.report_to, run.recipe.report = [logger], False
    report = (sys.executable, "-m", "dice", "report", str(run.path), "--in_loop", "--quick")
    away = {"WANDB_BASE_URL": "http://127.0.0.1:9", "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    create_run(run.recipe)
    told = run_script(*report, WANDB_API_KEY=KEY, DICE_IN_LOOP="1", **away)
    assert told.returncode == 0 and not told.stderr
    assert told.stdout.startswith(f"  ! loggers   {logger} is not up to date: ") and len(told.stdout) < 400
    assert told.stdout.count("\n") == 1
    written = [path.read_bytes() for path in run.path.rglob("*") if path.is_file()]
    assert written and not [content for content in written if KEY.encode() in content]


@pytest.mark.slow
@installed("wandb")
def test_a_loop_that_is_gone_on_with_logs_each_round_once(fake_settings, quiet, tmp_path):
    for rounds in (1, 2):  # as if it had been ended after round 1
        told = loop(*fake_settings, "report_to=wandb", f"rounds={rounds}")
        assert told.returncode == 0, told.stderr
        assert told.stdout.count("✓ loggers   wandb is up to date") == rounds + 1
    assert logged.require_equal(tmp_path / "results" / "tiny", "wandb") > 50
