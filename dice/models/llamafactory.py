"""The one door to LLaMA-Factory: importing it where it would otherwise fail.

LLaMA-Factory imports torchaudio unconditionally. On a CPU-only machine the package index offers
torchaudio only as a CUDA build, which can't load; text-only work never calls it. So where the real
one can't be imported, an empty module takes its place. A torchaudio that works is left alone.
"""

import dataclasses
import difflib
import enum
import importlib
import importlib.machinery
import logging
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

import pydantic

from dice.errors import first_line, spelled


def llamafactory(module: str) -> types.ModuleType:
    """Import `llamafactory.<module>` (a few seconds, the first time).

    Raises ImportError where LLaMA-Factory is not installed.
    """
    _stand_in_for_torchaudio()
    return importlib.import_module(f"llamafactory.{module}")


def hush() -> None:
    """Keep LLaMA-Factory's notes off the terminal, where nobody asked for them; its warnings stay."""
    llamafactory("extras.logging").get_logger().setLevel(logging.WARNING)


def wrong_arguments(args: dict[str, Any], section: str) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of what a part of a recipe hands to LLaMA-Factory.

    That is unknown names, values of other types, and values that don't go together. Asking LLaMA-Factory
    takes seconds, unless there are no arguments at all.
    """
    known = arguments() if args else {}
    for name, value in args.items():
        key = f"{section}.{name}"
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            yield key, f"unknown key {key!r}: neither DICE nor LLaMA-Factory has it{hint}"
        elif wanted := _misfit(value, known[name]):
            yield key, f"{key} is {spelled(value)}; LLaMA-Factory takes {wanted.replace('None', 'null')}"
    given = {"dataset": "mixed"} | args  # the loop names it
    for kind in ("DataArguments", "FinetuningArguments") if args else ():
        taken = getattr(llamafactory("hparams"), kind)
        try:
            taken(**{spec.name: given[spec.name] for spec in dataclasses.fields(taken) if spec.name in given})
        except (ValueError, TypeError, AssertionError) as error:
            yield section, f"{section}: LLaMA-Factory can't take all of it: {first_line(error)}"


def arguments() -> dict[str, Any]:
    """Every argument that a LLaMA-Factory training file may have, with its type."""
    hparams = llamafactory("hparams")
    found: dict[str, Any] = {}
    for kind in ("Model", "Data", "Training", "Finetuning", "Generating"):
        arguments_of_kind = getattr(hparams, f"{kind}Arguments")
        hints = typing.get_type_hints(arguments_of_kind)
        found |= {spec.name: hints[spec.name] for spec in dataclasses.fields(arguments_of_kind) if spec.init}
    return found


def _misfit(value: Any, wanted: Any) -> str | None:
    """What an argument of type `wanted` takes, in words, where `value` is not that; else None."""
    if value is None:  # as if it were not given
        return None
    choices = [kind for kind in (*typing.get_args(wanted), wanted) if isinstance(kind, enum.EnumMeta)]
    if choices and isinstance(value, str):  # declared as "Enum | str", which would take any text
        names = [member.value for member in choices[0]]
        return None if value in names else f"one of {', '.join(map(str, names))}"
    try:
        adapter = pydantic.TypeAdapter(wanted, config={"arbitrary_types_allowed": True})
        adapter.validate_python(value, strict=isinstance(value, str))  # or it would read "300" as 300
    except pydantic.ValidationError:
        return wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
    except pydantic.errors.PydanticUserError:  # a type of its own, which nothing can be said about
        return None
    return None


def _stand_in_for_torchaudio() -> None:
    if "torchaudio" in sys.modules:
        return
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError):
        empty = types.ModuleType("torchaudio", "Stands in for torchaudio, which can't load here.")
        empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", loader=None)
        sys.modules["torchaudio"] = empty
