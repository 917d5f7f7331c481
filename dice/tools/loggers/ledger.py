"""Which run of a logger is ours, and in which order it gets our entries: a file in the run's folder."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from dice.run import files
from dice.tools.loggers.entries import Entry


def ordered(path: Path, entries: Sequence[Entry]) -> tuple[str, list[Entry]]:
    """The id of our run, and all entries in the order in which it gets them, new ones at the end.

    So the number of entries that a logger has says which ones. It forgets nothing: where an entry is not the
    one that it got, because --force has made its round anew, another run begins, with another id.
    """
    known, now = files.read_json(path) or {}, {entry.digest: entry for entry in entries}
    if not known or not {*known["entries"]} <= {*now}:
        known = {"id": secrets.token_hex(4), "entries": []}
    order = [*dict.fromkeys([*known["entries"], *now])]
    files.write_json(path, {"id": known["id"], "entries": order})
    return known["id"], [now[digest] for digest in order]
