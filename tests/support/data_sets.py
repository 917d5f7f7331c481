"""A dataset_dir with one data set."""

import json
from pathlib import Path


def write(folder: Path, content: str | list, entry: dict | None = None, name: str = "rows.json") -> str:
    """A dataset_dir with one data set, `it`."""
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")
    entry = {"file_name": name, "columns": {"prompt": "instruction"}} | (entry or {})
    (folder / "dataset_info.json").write_text(json.dumps({"it": entry}))
    return str(folder)
