"""The first line of a run's recipe.yaml: a digest of the rest, by which an edit is noticed."""

import hashlib
from pathlib import Path

from dice.errors import BadInput

SEAL = b"# sha256 of what follows: "


def sealed(content: str) -> str:
    """A recipe.yaml behind its seal."""
    return _seal_of(content.encode()).decode() + content


def is_sealed(path: Path) -> bool:
    """Whether a recipe.yaml has a seal: those of earlier versions have none.

    Raises BadInput where it is not as it was written.
    """
    content = path.read_bytes()
    if not content.startswith(SEAL):
        return False
    _, _, rest = content.partition(b"\n")
    if content != _seal_of(rest) + rest:
        advice = "put it back, or start its recipe again, which writes it anew"
        raise BadInput(f"{path}: not as it was written, its first line says; {advice}")
    return True


def _seal_of(content: bytes) -> bytes:
    return SEAL + hashlib.sha256(content).hexdigest().encode() + b"\n"
