"""`dataset_info.json`: which data sets there are, and how LLaMA-Factory describes each."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dice import store
from dice.errors import BadInput
from dice.recipe import resolve

ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
UNSUPPORTED_COLUMNS = ("tools", "images", "videos", "audios", "kto_tag")  # a prompt here is text alone
SHAREGPT_COLUMNS = {"messages": "conversations"}
TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Source:
    """An entry of dataset_info.json and the file it names."""

    name: str
    registry: Path
    entry: dict[str, Any]

    @property
    def file(self) -> Path:
        return self.registry.parent / self.entry["file_name"]

    @property
    def is_sharegpt(self) -> bool:
        return self.entry.get("formatting", "alpaca") == "sharegpt"

    @property
    def columns(self) -> dict[str, str]:
        """Column names by role; without `columns`, LLaMA-Factory's defaults."""
        return self.entry.get("columns") or (SHAREGPT_COLUMNS if self.is_sharegpt else ALPACA_COLUMNS)

    @property
    def tags(self) -> dict[str, str]:
        return {**TAGS, **self.entry.get("tags", {})}


def find_entry(dataset_dir: str, name: str) -> Source:
    """The entry `name` of `dataset_dir`/dataset_info.json; its file may be still to be made.

    Raises BadInput where there is no such entry or it can't be used.
    """
    registry = resolve(dataset_dir) / "dataset_info.json"
    entries = _registry(registry)
    if name not in entries:
        raise BadInput(f"{registry}: no data set {name!r}; there are: {', '.join(sorted(entries))}")
    entry, where = entries[name], f"{registry}: {name}"
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        raise BadInput(f"{where}: file_name is missing; only local files can be read")
    if entry.get("formatting", "alpaca") not in ("alpaca", "sharegpt"):
        raise BadInput(f"{where}: formatting is {entry['formatting']!r}; there are alpaca, sharegpt")
    for key in ("num_samples", "subset", "folder"):
        if key in entry:
            raise BadInput(f"{where}: {key} is not supported")
    if entry.get("split", "train") != "train":
        raise BadInput(f"{where}: split is {entry['split']!r}; a local file has only the split train")
    if not isinstance(entry.get("ranking", False), bool):
        raise BadInput(f"{where}: ranking is {entry['ranking']!r}; it must be true or false")
    for key in ("columns", "tags"):
        names = entry.get(key) or {}
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            raise BadInput(f"{where}: {key} must be a mapping of names to names")
    source = Source(name, registry, entry)
    for role in UNSUPPORTED_COLUMNS:
        if role in source.columns:
            raise BadInput(f"{where}: columns.{role} is not supported")
    required = "messages" if source.is_sharegpt else "prompt"
    if required not in source.columns:
        raise BadInput(f"{where}: columns.{required} is missing")
    return source


def find_source(dataset_dir: str, name: str) -> Source:
    """Like `find_entry`, and its file exists."""
    source = find_entry(dataset_dir, name)
    if not source.file.is_file():
        named = f"file_name {source.entry['file_name']!r}"
        raise BadInput(f"{source.registry}: {name}: {named}: there is no file {source.file}")
    return source


def _registry(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist; dataset_dir must hold a dataset_info.json") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error.reason} at byte {error.start})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: {error}") from None
    if not isinstance(entries, dict):
        raise BadInput(f"{path}: not a JSON object of data sets")
    return entries


def digest(dataset_dir: str, name: str) -> str:
    """What identifies a data set: its entry and its file's content."""
    source = find_source(dataset_dir, name)
    return f"{store.file_digest(source.file)} {json.dumps(source.entry, sort_keys=True)}"
