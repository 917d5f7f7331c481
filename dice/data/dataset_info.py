"""`dataset_info.json`: which data sets there are, how LLaMA-Factory describes each, and what each names."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dice.data.registry import read_registry
from dice.errors import BadInput, first_line, spelled
from dice.recipe.paths import may_exist, resolve
from dice.run.digests import file_digest

ALPACA_COLUMNS = {"prompt": "instruction", "query": "input", "response": "output"}
UNSUPPORTED_COLUMNS = ("tools", "images", "videos", "audios", "kto_tag")  # a prompt here is text alone
DATA_DIRS = "DICE_DATA_DIRS"  # an environment variable: more folders that data may lie in
OTHER_PLACES = ("ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
FILE_TYPES = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
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
ROLE_CONTENT = {  # the other convention: turns as {role, content}
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}


@dataclass(frozen=True)
class Source:
    """An entry of dataset_info.json and what it names: local files, or a set on the Hub."""

    name: str
    registry: Path
    entry: dict[str, Any]

    @property
    def place(self) -> str:
        """The entry, for messages."""
        return f"{self.registry}: {self.name}"

    @property
    def hub(self) -> str | None:
        """The Hub id, or a local copy's folder (relative to the repository); None for local files."""
        name = self.entry.get("hf_hub_url")
        return str(resolve(name)) if name and resolve(name).is_dir() else name

    @property
    def is_local(self) -> bool:
        """Whether the set is on this machine, or would be if it had been made."""
        return self.hub is None or Path(self.hub).is_dir()

    @property
    def file(self) -> Path:
        """The file or folder that `file_name` names."""
        return self.registry.parent / self.entry["file_name"]

    def files(self) -> list[Path]:
        """The local files by name: all of one type, or those of a local copy of a Hub set.

        Of a set on the Hub there are none. Raises BadInput for a file that is missing, no data, or elsewhere.
        """
        if self.hub:
            return self._copied_files() if self.is_local else []
        if not self.file.exists():
            named = f"file_name {self.entry['file_name']!r}"
            raise BadInput(f"{self.place}: {named}: there is no file {self.file}")
        listed = [self.file]
        if self.file.is_dir():
            listed = sorted(path for path in self.file.iterdir() if not path.name.startswith("."))
        for path in listed:
            self.check_place(path)
            if path.suffix not in FILE_TYPES or not path.is_file():
                raise BadInput(f"{self.place}: {path} is no data; it must be a {', '.join(FILE_TYPES)} file")
        if len({FILE_TYPES[path.suffix] for path in listed}) != 1:
            raise BadInput(f"{self.place}: {self.file} must hold files of one type, at least one")
        return listed

    def _copied_files(self) -> list[Path]:
        """Every file of a local copy, and those that its card or a folder's link has `datasets` read."""
        files = {path for path in Path(self.hub).rglob("*") if path.is_file()}
        for names in (self.load("load_dataset_builder").config.data_files or {}).values():
            for name in names:
                if "://" in name:
                    raise BadInput(f"{self.place}: {self.hub} names {name}; it must be a file of the copy")
                files.add(Path(name))
        for path in files:
            self.check_place(path)
        return sorted(files)

    def load(self, function: str, **options: Any) -> Any:
        """What a function of `datasets` makes of a set on the Hub, or of a local copy of one.

        Raises BadInput where it can't be loaded.
        """
        import datasets

        datasets.disable_progress_bars()
        subset, folder = self.entry.get("subset"), self.entry.get("folder")
        try:
            return getattr(datasets, function)(self.hub, name=subset, data_dir=folder, **options)
        except Exception as error:  # whatever the set's host, its builder or its files come up with
            reason = first_line(error)
            raise BadInput(f"{self.place}: {self.hub!r} can't be loaded: {reason}") from error

    def check_place(self, path: Path) -> None:
        """Raises BadInput for a file or folder that lies, by name or by links, outside of the data folders.

        These are the folder of dataset_info.json, those of DICE_DATA_DIRS (as in PATH), and rounds of runs.
        """
        named = filter(None, os.environ.get(DATA_DIRS, "").split(os.pathsep))
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(os.path.realpath(place)) for place in (self.registry.parent, *named)):
            return
        if any(
            (folder / "recipe.yaml").is_file() for folder in real.parents if _is_rounds_data(real, folder)
        ):
            return
        leads = f", which leads to {real}," if real != Path(os.path.abspath(path)) else ""
        raise BadInput(
            f"{self.place}: {path}{leads} lies outside of {self.registry.parent}; copy it there, or allow "
            f"its folder: {DATA_DIRS}={real.parent}"
        )

    @property
    def is_sharegpt(self) -> bool:
        return self.entry.get("formatting", "alpaca") == "sharegpt"

    @property
    def columns(self) -> dict[str, str]:
        """Column names by role; without `columns`, LLaMA-Factory's defaults."""
        return self.entry.get("columns") or (SHAREGPT_COLUMNS if self.is_sharegpt else ALPACA_COLUMNS)

    @property
    def tags(self) -> dict[str, str]:
        return {**TAGS, **(self.entry.get("tags") or {})}


def _is_rounds_data(path: Path, run: Path) -> bool:
    """Whether a file is part of a round's data set, RUN/round-N/dataset/..., if `run` is a run."""
    round_dir, data, *_ = (*path.relative_to(run).parts, "", "")
    return round_dir.startswith("round-") and data == "dataset"


def find_entry(dataset_dir: str, name: str) -> Source:
    """The entry `name` of `dataset_dir`/dataset_info.json; its file may be still to be made.

    Raises BadInput where there is no such entry or it can't be used.
    """
    registry = resolve(dataset_dir) / "dataset_info.json"
    entries = read_registry(registry)
    if name not in entries:
        raise BadInput(f"{registry}: no data set {name!r}; there are: {', '.join(sorted(entries))}")
    source = Source(name, registry, entries[name])
    if problem := _problem(source):
        raise BadInput(f"{source.place}: {problem}")
    if not source.hub:
        source.check_place(source.file)
    elif source.is_local:
        source.check_place(Path(source.hub))
    return source


def _problem(source: Source) -> str | None:
    """What is wrong with an entry, if anything."""
    entry = source.entry
    if not isinstance(entry, dict):
        return "an entry must be an object"
    for key in ("file_name", "hf_hub_url", "subset", "folder", "split", "file_sha1"):
        if not isinstance(entry.get(key, ""), str):
            return f"{key} is {spelled(entry[key])}; it must be text"
    on_hub = bool(entry.get("hf_hub_url"))
    if not on_hub and (other := [key for key in OTHER_PLACES if key in entry]):
        return f"{other[0]} is not supported; name the data by file_name or hf_hub_url"
    if not on_hub and not entry.get("file_name"):
        return "file_name is missing (or hf_hub_url, for a set on the Hub)"
    for key in ("file_name", "folder", "hf_hub_url"):
        if not may_exist(source.registry.parent / entry.get(key, "")):
            return f"{key} is {entry[key]!r:.80}; no file can have such a name"
    if Path(entry.get("folder", "")).is_absolute() or ".." in Path(entry.get("folder", "")).parts:
        return f"folder is {entry['folder']!r}; it must lie inside the set"
    for key in ("file_sha1",) if on_hub else ("subset", "folder"):
        if key in entry:
            return f"{key} is for {'a local file' if on_hub else 'sets on the Hub (hf_hub_url)'}"
    count = entry.get("num_samples", 1)
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        return f"num_samples is {spelled(count)}; it must be a whole number of at least 1"
    if entry.get("formatting", "alpaca") not in ("alpaca", "sharegpt"):
        return f"formatting is {spelled(entry['formatting'])}; there are alpaca, sharegpt"
    if not isinstance(entry.get("ranking", False), bool):
        return f"ranking is {spelled(entry['ranking'])}; it must be true or false"
    for key in ("columns", "tags"):
        names = entry.get(key) or {}
        if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
            return f"{key} must be a mapping of names to names"
    for role in UNSUPPORTED_COLUMNS:
        if role in source.columns:
            return f"columns.{role} is not supported"
    required = "messages" if source.is_sharegpt else "prompt"
    return None if required in source.columns else f"columns.{required} is missing"


def find_source(dataset_dir: str, name: str) -> Source:
    """Like `find_entry`, and its files exist."""
    source = find_entry(dataset_dir, name)
    source.files()
    return source


def digest(dataset_dir: str, name: str) -> str:
    """What identifies a data set: its entry and its files' content. A set on the Hub is its id."""
    source = find_entry(dataset_dir, name)
    digests = " ".join(map(file_digest, source.files()))
    return f"{digests} {json.dumps(source.entry, sort_keys=True)}"
