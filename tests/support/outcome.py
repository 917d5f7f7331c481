"""What a run of the loop comes to: its files and its rows, to be compared with those of another run."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from dice.recipe.seal import is_sealed
from dice.run.manifests import SPEEDS

# What of a manifest differs between runs that come to the same: how long it took, and the checkout's commit.
PASSING = ("seconds", "resumed", *SPEEDS, "commit", "digest")
# What of a report does: how long things took, and which of them went on from an attempt that was ended.
TIMES = re.compile(
    rb'<tr><th scope="row">(?:Time|Trained tokens a second|[^<]* matrix rate)</th>[^\n]*'
    rb'|<table class="glance" id="time">.*?</table>'
    rb'| *<p class="caption">(?:The evaluation took|\* went on)[^\n]*\n?',
    re.DOTALL,
)


def files_of(run: Path) -> dict[str, bytes]:
    """Every file of a run by name; of manifests, all but `PASSING`, of reports, all but `TIMES`.

    Logs and the lock are left out, and so is recipe.yaml's seal once it is checked. Where a file names the
    folder that the run lies in, ROOT stands instead.
    """
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        if path.is_file() and "/logs/" not in f"/{name}" and name != ".lock":
            found[name] = content_of(path, run.parent.parent)
    return found


def content_of(path: Path, root: Path) -> bytes:
    """One file as `files_of` has it."""
    content = path.read_bytes()
    if path.name.endswith(".manifest.json"):
        manifest = json.loads(content)
        content = json.dumps({key: manifest[key] for key in manifest if key not in PASSING}).encode()
    if path.name == "recipe.yaml" and is_sealed(path):  # which depends on the folder's name
        content = content.partition(b"\n")[2]
    if path.name == "report.html":
        content = TIMES.sub(b"", content)
    return content.replace(str(root).encode(), b"ROOT")


def rows_of(run: Path) -> Counter[str]:
    """How often each response, score, pair and row of a data set is there, by its place and its key."""
    rows: Counter[str] = Counter()
    for path in sorted(run.rglob("*.json*")):
        name = path.relative_to(run)
        if path.is_file() and not name.name.startswith("."):
            where = name.parent if {"responses", "scores", "quality"} & {*name.parts} else name
            rows.update(f"{where}: {key}" for key in _keys(path))
    return rows


def _keys(path: Path) -> Iterator[str]:
    """The key of every row; what can't be read is none."""
    if path.parent.name == "dataset" and path.name in ("dataset.json", "mixed.json"):
        yield from (json.dumps(row) for row in json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".jsonl":
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if "prompt_id" in row:
                yield " ".join(str(row.get(name)) for name in ("prompt_id", "sample", "chosen_sample"))


def first_difference(ours: bytes | None, theirs: bytes | None) -> str:
    """Where two files begin to differ, in words."""
    if ours is None or theirs is None:
        return "it is missing" if ours is None else "an uninterrupted run has none"
    same = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    at = min(len(ours), len(theirs)) if same is None else same
    line = ours[:at].count(b"\n") + 1
    start = max(0, at - 30)
    return f"line {line}, byte {at}: {ours[start : at + 30]!r} instead of {theirs[start : at + 30]!r}"
