"""Pairs -> a LLaMA-Factory dataset directory."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dice import store
from dice.schema import Pair, Preference

# How dataset_info.json describes the rows of `_row`: the sharegpt format with role/content keys,
# which carries system prompts and several turns.
ENTRY = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
    "tags": {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    },
}


def export(folder: Path, generated: Iterable[Pair], mixed: Iterable[Pair | Preference]) -> None:
    """Write `dataset.json` (generated pairs), `mixed.json` (with replay) and `dataset_info.json`."""
    for name, pairs in {"dataset": generated, "mixed": mixed}.items():
        store.write_array(folder / f"{name}.json", map(_row, pairs))
    registry = {name: {"file_name": f"{name}.json", **ENTRY} for name in ("dataset", "mixed")}
    store.write_json(folder / "dataset_info.json", registry)


def _row(pair: Pair | Preference) -> dict[str, Any]:
    return {
        "messages": pair.messages,
        "chosen": {"role": "assistant", "content": pair.chosen},
        "rejected": {"role": "assistant", "content": pair.rejected},
    }
