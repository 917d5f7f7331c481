"""The commands as a user meets them: the help of each, and how it is started."""

import dataclasses
import inspect
import re

import pytest
from commands import run_dice

from dice import __version__
from dice.__main__ import Commands
from dice.errors import BadInput
from dice.launch import command_line
from dice.tools.benchmarks.task import Options

GROUPS = command_line.groups(Commands)
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
FIRE = ("FIRE_METADATA", "GROUPS", "SYNOPSIS", "<flags>", "INFO:", "Type:", "Default:", "POSITIONAL")


def help_of(name: str) -> str:
    return command_line.explanation(name, COMMANDS[name], command_line.arguments(COMMANDS[name], Commands))


def test_users_commands_come_first_and_the_loops_own_are_apart():
    for_users, for_the_loop = GROUPS.values()
    assert {"plan", "doctor", "status", "report", "score", "reward", "evaluate", "export"} <= for_users.keys()
    assert {"register", "ablate"} <= for_users.keys()
    assert {"start", "resolve", "hold", "share", "train_rm", "places"} <= for_the_loop.keys()
    assert {"generate", "pair", "train"} <= for_the_loop.keys()
    shown = re.findall(r"^  (\w+) +\S", command_line.overview(Commands), re.MULTILINE)
    assert shown == [*for_users, *for_the_loop]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_and_flag_has_a_sentence(name):
    parameters = dict(list(inspect.signature(COMMANDS[name]).parameters.items())[1:])
    wanted = {each for each, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD}
    if name in ("doctor", "evaluate"):  # their **options
        wanted |= {field.name for field in dataclasses.fields(Options)}
    taken = command_line.arguments(COMMANDS[name], Commands)
    assert {argument.name for argument in taken} == wanted
    for argument in taken:
        assert re.fullmatch(r"[A-Z].{10,}\.", argument.sentence), argument
        assert argument.shown in help_of(name)
    explained = command_line._sentences(COMMANDS[name])
    assert explained.keys() <= wanted, "the docstring explains an argument that there is not"


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_help_fits_the_terminal_and_says_nothing_of_fire(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    for text in (command_line.overview(Commands), *map(help_of, COMMANDS)):
        assert max(map(len, text.splitlines())) <= columns
        assert not [word for word in FIRE if word in text]
        assert not re.search(r"\b(None|True|False|str|int|bool)\b", text)


def test_a_command_has_one_line_on_a_terminal_of_eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = re.findall(r"^  \w+ .*$", command_line.overview(Commands), re.MULTILINE)
    assert len(shown) == len(COMMANDS) and all(line.endswith(".") for line in shown)


def test_the_command_line():
    assert run_dice("--version").stdout == f"{__version__}\n"
    nothing, asked = run_dice(), run_dice("--help")
    assert nothing.returncode == asked.returncode == 0 and nothing.stdout == asked.stdout
    unknown = run_dice("stauts")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "error: dice has no command 'stauts'; did you mean status?\n"
    told = run_dice("status", "--chek")
    assert (told.returncode, told.stderr) == (2, "error: status has no flag --chek; did you mean --check?\n")


@pytest.mark.parametrize("round", ["0", "3", "None", "1.0", "True", "first"])
def test_a_round_that_is_none_of_the_runs(fake_run, round, capsys):
    with pytest.raises(BadInput, match=f"there is no round {round}; this run has rounds 1 to 2"):
        command_line.call(Commands, ["generate", str(fake_run.path), round], "")
