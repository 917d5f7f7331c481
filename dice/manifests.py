"""Manifests, `STAGE.manifest.json`: written last, so a stage that has one is done.

A manifest ends with a digest of itself. One that was edited, cut or swapped for something else is
refused by name; nothing is ever taken from it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from dice import store
from dice.errors import BadInput

DIGEST = "digest"
PASSING = ("seconds", "resumed", DIGEST)  # what may differ between runs that are otherwise the same
# What every manifest has. Those of earlier versions have no digest; they must at least look like one.
SHAPE = {
    "stage": str, "inputs": dict, "recipe": dict, "outputs": dict, "rows_in": int, "rows_out": int,
    "dropped": dict, "summary": str, "seconds": int | float,
}  # fmt: skip


def write(path: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest, its digest last, atomically."""
    store.write_json(path, {**manifest, DIGEST: _digest(manifest)})


def read(path: Path) -> dict[str, Any] | None:
    """A manifest without its digest, or None where there is none.

    Raises BadInput where something else stands in its place, or where it was changed.
    """
    if not path.is_file() and not path.is_symlink() and not path.exists():
        return None
    found = store.read_json(path)
    advice = "remove it, and the stage runs again"
    if found is None:
        raise BadInput(f"{path}: not a manifest, which is a file with a JSON object; {advice}")
    written = found.pop(DIGEST, None)
    if written is not None and written != _digest(found):
        raise BadInput(f"{path}: not as it was written, its digest says; {advice}")
    for key, kind in SHAPE.items():
        if not isinstance(found.get(key), kind):
            raise BadInput(f"{path}: not a manifest: {key} is {found.get(key)!r:.40}; {advice}")
    for name in found["outputs"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadInput(f"{path}: {name!r} among its outputs lies outside of the stage's folder; {advice}")
    return found


def _digest(manifest: dict[str, Any]) -> str:
    lasting = {key: value for key, value in manifest.items() if key not in PASSING}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
