"""The file dataset_info.json: reading it, and an entry that is added or replaced, the rest left as it is."""

import json
import re
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.run.files import write_json, write_text
from dice.run.lock import alone

NAME = re.compile(r"[^\s,\"\\]+")  # of a data set
KEY = re.compile(r'("(?:[^"\\]|\\.)*")\s*:\s*')


def read_registry(path: Path) -> dict[str, Any]:
    """The entries by name. Raises BadInput for a file that is none, or not there."""
    if not path.exists():
        raise BadInput(f"{path} does not exist; dataset_dir must hold a dataset_info.json")
    if not path.is_file():
        raise BadInput(f"{path}: not a file")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(entries, dict):
        raise BadInput(f"{path}: not a JSON object of data sets")
    return entries


def register(
    registry: Path, name: str, entry: dict[str, Any], own: Path | None = None, force: bool = False
) -> str:
    """Add an entry at the end of a dataset_info.json; returns "added to".

    Returns "in" where that very entry is there already, and "replaced in" where `force` has put it in the
    place of another one. That is done only to an entry whose data lie in the folder `own`. A registry that
    does not exist is made. Raises BadInput for a name that is taken or that can't be one.
    """
    registry = registry.resolve()
    registry.parent.mkdir(parents=True, exist_ok=True)
    with alone(registry.parent):  # what another process adds in between would be lost
        there = check_free(registry, name, entry, own, force)
        if not registry.exists():
            write_json(registry, {name: entry})
            return "added to"
        if there == entry:
            return "in"
        with registry.open(encoding="utf-8", newline="") as file:
            text = file.read()
        mode = registry.stat().st_mode
        write_text(registry, (_replaced if there else _added)(text, name, entry))
        registry.chmod(mode)
        return "replaced in" if there else "added to"


def check_free(
    registry: Path, name: str, entry: dict[str, Any], own: Path | None = None, force: bool = False
) -> Any:
    """What a dataset_info.json has by a name; None where it has nothing.

    Raises BadInput for a name that can't be one, and where it has anything but `entry` or, with `force`, an
    entry whose data lie in the folder `own`.
    """
    if not NAME.fullmatch(name):
        raise BadInput(f"{name!r} is no name of a data set: it has a space, a comma, a quote or a backslash")
    there = read_registry(registry).get(name) if registry.exists() else None
    if there in (None, entry):
        return there
    file = there.get("file_name") if isinstance(there, dict) else None
    data = (registry.resolve().parent / file).resolve() if isinstance(file, str) else None
    is_own = own and data and data.parent == own.resolve()
    if not is_own:
        raise BadInput(f"{registry}: there is another data set {name!r} already; give another name")
    if not force:
        raise BadInput(f"{registry}: {name!r} is another entry of this round; --force replaces it")
    return there


def _added(text: str, name: str, entry: dict[str, Any]) -> str:
    body, _, after = text.rpartition("}")
    comma = "," if json.loads(text) else ""
    return body.rstrip() + comma + _end(text) + _written(text, name, entry) + _end(text) + "}" + after


def _replaced(text: str, name: str, entry: dict[str, Any]) -> str:
    wanted = json.loads(text) | {name: entry}
    for found in KEY.finditer(text):  # keys of the file, of its entries, and what looks like one
        if json.loads(found[1]) == name:
            _, stop = json.JSONDecoder().raw_decode(text, found.end())
            changed = text[: found.start()] + _written(text, name, entry).lstrip() + text[stop:]
            if json.loads(changed) == wanted:
                return changed
    raise BadInput(f"the entry {name!r} of dataset_info.json is there twice; remove one by hand")


def _written(text: str, name: str, entry: dict[str, Any]) -> str:
    """An entry as JSON, with the indent and the line ends of a text."""
    found = re.search(r"\n([ \t]+)\"", text)
    lines = json.dumps({name: entry}, indent=found[1] if found else 2, ensure_ascii=False).splitlines()
    return _end(text).join(lines[1:-1])


def _end(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"
