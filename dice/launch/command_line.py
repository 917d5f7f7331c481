"""The command line of `dice`: which command is meant, with which arguments, and help on each.

A command is a method, and a group of commands a class, whose docstring is the group's heading. A command's
docstring says what it does in its first line; a paragraph that begins with `dice` is its usage, and `Args:`
has a line for each argument and flag: `name: sentence`, or `name (LABEL): sentence`. Sentences that several
commands share stand in the docstring of the class that joins the groups; those of **options below `Options:`.
Help and refusals come from here, in a user's words; fire makes values of the checked words and calls.
"""

import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import Parameter
from os.path import expanduser
from typing import Literal

import fire

from dice.errors import BadInput

Command = Callable[..., object]
HELP = ("--help", "-h")
WIDEST = 100  # characters of a line of help
KINDS = {Parameter.POSITIONAL_OR_KEYWORD: "place", Parameter.VAR_POSITIONAL: "words"}
FLAG = re.compile(r"-(?!\d)")  # -1 is a number
ARGUMENT = re.compile(r"(\w+)(?: \((.+?)\))?: (.+)")
CLOSING = "`dice COMMAND --help` explains a command and its flags; `dice --version` prints the version."


@dataclass(frozen=True)
class Argument:
    """An argument of a command, as a user knows it."""

    name: str
    kind: Literal["place", "words", "flag", "switch"]  # words: any number of them; a switch has no value
    shown: str  # RUN, --output=FILE, --force
    sentence: str
    required: bool


def groups(commands: type) -> dict[str, dict[str, Command]]:
    """The commands by name, of each group by its heading."""
    return {
        inspect.getdoc(group): {name: c for name, c in vars(group).items() if not name.startswith("_")}
        for group in commands.__bases__
    }


def arguments(command: Command, commands: type) -> list[Argument]:
    """The arguments of a command, in their order."""
    shared, own = _sentences(commands), _sentences(command)
    found, parameters = [], dict(list(inspect.signature(command).parameters.items())[1:])
    for name, parameter in parameters.items():
        kind = KINDS.get(parameter.kind) or ("switch" if parameter.annotation is bool else "flag")
        required = kind in ("place", "flag") and parameter.default is Parameter.empty
        if parameter.kind is Parameter.VAR_KEYWORD:
            named, required = _sentences(commands, "Options"), False
        else:
            named = {name: own.get(name) or shared[name]}
        for each, (label, sentence) in named.items():
            label = label or each.upper()
            shown = {"switch": f"--{each}", "flag": f"--{each}={label}"}.get(kind, label)
            found.append(Argument(each, kind, shown, sentence, required))
    return found


def _sentences(documented: object, heading: str = "Args") -> dict[str, tuple[str, str]]:
    """Label and sentence of each argument that a docstring explains under a heading."""
    lines = inspect.getdoc(documented).partition(f"{heading}:\n")[2].partition("\n\n")[0].splitlines()
    return {match[1]: (match[2], match[3]) for line in lines if (match := ARGUMENT.match(line.strip()))}


def call(commands: type, words: list[str], version: str) -> None:
    """Do what the words of a command line ask for.

    Raises BadInput for an unknown command or flag, and for arguments that are missing or too many.
    """
    known = {name: command for group in groups(commands).values() for name, command in group.items()}
    name, rest = (words[0], words[1:]) if words else (HELP[0], [])
    if name in HELP:
        print(overview(commands))
    elif name == "--version":
        print(version)
    elif name not in known:
        raise BadInput(f"dice has no command {name!r}{_nearest(name, [*known, '--version'], 'dice')}")
    elif any(word in HELP for word in rest):
        print(explanation(name, known[name], arguments(known[name], commands)))
    else:
        fitting = _fitting(name, arguments(known[name], commands), rest)
        _set_parsers(known[name])
        fire.Fire(getattr(commands(), name), command=fitting, name=f"dice {name}")


def _fitting(name: str, taken: list[Argument], words: list[str]) -> list[str]:
    """The words as fire takes them, flags behind the others. Raises BadInput where they don't fit."""
    flags = {argument.name: argument for argument in taken if argument.kind != "words"}
    in_place, given, rest = [], {}, iter(words)
    for word in rest:
        if not FLAG.match(word):
            in_place.append(word)
            continue
        key, equals, value = word.partition("=")
        flag = flags.get(key[2:].replace("-", "_")) if key.startswith("--") else None
        if flag is None:
            near = _nearest(key, [f"--{other}" for other in flags], f"dice {name}")
            raise BadInput(f"{name} has no flag {key}{near}")
        if flag.kind == "switch" and equals:
            raise BadInput(f"{name}: {key} takes no value; write {key}, or leave it out")
        value = value if equals else "yes" if flag.kind == "switch" else next(rest, "--")
        if not value or (not equals and value.startswith("--")):
            raise BadInput(f"{name}: {key} needs a value: {flag.shown}")
        given[flag.name] = expanduser(value)  # a shell leaves the ~ of --flag=~/folder alone
    see = f"; see `dice {name} --help`"
    places = [flag for flag in flags.values() if flag.kind == "place" and flag.name not in given]
    if len(in_place) > len(places) and not any(argument.kind == "words" for argument in taken):
        raise BadInput(f"{name} takes no {in_place[len(places)]!r}{see}")
    filled = {*given, *(argument.name for argument in places[: len(in_place)])}
    if missing := [flag.shown for flag in flags.values() if flag.required and flag.name not in filled]:
        raise BadInput(f"{name} needs {' and '.join(missing)}{see}")
    return [*in_place, *(f"--{key}={value}" for key, value in given.items())]


def _nearest(word: str, known: list[str], program: str) -> str:
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; see `{program} --help`"


def _set_parsers(command: Command) -> None:
    """Make fire leave text as it is, except where a parameter is a switch or may be a number."""
    for name, parameter in inspect.signature(command).parameters.items():
        texts = parameter.annotation in (str, str | None)
        parse = bool if parameter.annotation is bool else str if texts else _number
        if parameter.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            fire.decorators.SetParseFn(parse)(command)
        else:
            fire.decorators.SetParseFn(parse, name)(command)


def _number(text: str) -> int | float | str:
    """The number that a text is; the text itself, which the command refuses, where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # the latter: of very many brackets
        return text
    return value if type(value) in (int, float) else text


def overview(commands: type) -> str:
    """The commands, each with what it does, in groups."""
    width = max(len(name) for group in groups(commands).values() for name in group)
    blocks = ["usage: dice COMMAND ..., or python -m dice COMMAND ...", _filled(_summary(commands))]
    for heading, group in groups(commands).items():
        lines = [_row(name, width, _summary(command)) for name, command in group.items()]
        blocks.append("\n".join([_filled(heading), *lines]))
    return "\n\n".join([*blocks, _filled(CLOSING)])


def explanation(name: str, command: Command, taken: list[Argument]) -> str:
    """A command's usage, what it does, and a sentence for each of its arguments and flags."""
    paragraphs = inspect.getdoc(command).partition("Args:\n")[0].strip().split("\n\n")
    usages = [text for text in paragraphs if text.startswith("dice ")]
    usage = usages[0].splitlines() if usages else [" ".join([f"dice {name}", *map(_in_usage, taken)])]
    shown = [_filled(line, " " * 7 if index else "usage: ", " " * 11) for index, line in enumerate(usage)]
    width = max(len(argument.shown) for argument in taken)
    rows = [_row(argument.shown, width, argument.sentence) for argument in taken]
    told = [_filled(text) for text in paragraphs if text not in usages]
    return "\n\n".join(["\n".join(shown), *told, "\n".join(rows)])


def _summary(documented: object) -> str:
    return inspect.getdoc(documented).partition("\n")[0]


def _in_usage(argument: Argument) -> str:
    shown = f"{argument.shown} ..." if argument.kind == "words" else argument.shown
    return shown if argument.required else f"[{shown}]"


def _row(label: str, width: int, sentence: str) -> str:
    return _filled(sentence, f"  {label:<{width}}  ", " " * (width + 4))


def _filled(text: str, first: str = "", later: str = "") -> str:
    """A text in lines as wide as the terminal, but not too wide to read."""
    width = min(WIDEST, shutil.get_terminal_size().columns)
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
