"""A missing package is named in one line. A program imports this before it imports any package."""

import sys
from types import TracebackType

from dice.errors import BadInput


def _name(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Python's last word on an error that nobody has caught."""
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not issubclass(kind, ModuleNotFoundError) or package in ("", "dice"):
        sys.__excepthook__(kind, error, trace)
        return
    way = "bash scripts/setup.sh makes .venv with the tested stack, for .venv/bin/python"
    print(f"error: {sys.executable} has no package {package!r}; {way}", file=sys.stderr)
    sys.exit(BadInput.status)


sys.excepthook = _name
