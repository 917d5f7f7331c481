"""How the fuzzer spoils things: JSON values out of shape, bytes flipped and cut, files that are none.

Every function takes a `random.Random`, so that a seed tells what was tried.
"""

import copy
import json
import os
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ODD = [
    None, True, False, 0, 1, -1, 2**63, -(2**70), 10**400, 0.5, -0.0, float("nan"), float("inf"), 1e308,
    "", " ", "\x00", "a\nb", "\ud800", "é\u2028", "[red]x[/red]", "\x1b[2J", "../../etc/passwd",
    "/etc/passwd", "NaN", "null", "0", "train", "x" * 3000, [], {}, [[]], [None], [{}], {"": None},
    {"role": "user"}, [{"role": "user", "content": 1}], [{"from": "human", "value": "hi"}],
    [{"role": "user", "content": "hi"}], ["text"], [["a", "b"]], {"a": {"b": {"c": []}}},
]  # fmt: skip
JUNK = [
    b"", b"\n", b"\x00" * 64, b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"{", b"[", b"]", b'"', b"null", b"{}",
    b"[]", b"NaN", b"1" * 5000, b"[" * 5000, b'{"a":' * 5000, b"\xc3", b"\xed\xa0\x80", b"\\ud800", b"- ",
    b"? ", b"&a *a", b"!!python/object/apply:os.system [true]", b"${oc.env:HOME}", b"${policy}", b"%", b"\t",
    b",", b"\x1b[31m",
]  # fmt: skip


def odd(rng: random.Random, depth: int = 2) -> Any:
    """A value that nobody asked for."""
    if depth and rng.random() < 0.2:
        return [odd(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    if depth and rng.random() < 0.2:
        return {str(odd(rng, 0)): odd(rng, depth - 1) for _ in range(rng.randint(0, 3))}
    return copy.deepcopy(rng.choice(ODD))


def reshaped(rng: random.Random, value: Any, strange: Callable[[], Any] | None = None) -> Any:
    """A JSON value in which one to three places were replaced, deleted, renamed, doubled or added."""
    strange = strange or partial(odd, rng)
    box = {"": copy.deepcopy(value)}
    for _ in range(rng.randint(1, 3)):
        if places := _places(box):
            _change(rng, *rng.choice(places), strange)
    return box.get("")


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    return [place for key in keys for place in ((value, key), *_places(value[key]))]


def _change(rng: random.Random, where: Any, key: Any, strange: Callable[[], Any]) -> None:
    how = rng.randrange(6)
    if how == 0:
        del where[key]
    elif how == 1 and isinstance(where, dict) and key:
        where[rng.choice([key.upper(), key + "s", "\ud800", ""])] = where.pop(key)
    elif how == 2 and isinstance(where, list):
        where.insert(key, copy.deepcopy(where[key]))
    elif how == 3 and isinstance(where[key], dict):
        where[key]["extra"] = strange()
    elif how == 4 and isinstance(where[key], int | float):
        where[key] = rng.choice([where[key] * 10**6, -where[key], str(where[key]), where[key] - 1])
    else:
        where[key] = strange()


def as_json(rng: random.Random, value: Any) -> bytes:
    """A value as JSON, its surrogates escaped or not."""
    return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def as_lines(rng: random.Random, values: Any) -> bytes:
    """A list as JSON Lines; what is no list, as one line."""
    values = values if isinstance(values, list) else [values]
    return b"".join(as_json(rng, value) + b"\n" for value in values)


def spoiled(rng: random.Random, data: bytes) -> bytes:
    """Bytes with something done to them: flipped, cut, lines moved about, junk let in."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(data) + 1)
    line = rng.randrange(len(lines)) if lines else 0
    how = rng.randrange(12)
    if how == 0:
        return data[:at]
    if how == 1 and data:
        flipped = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    if how == 2 and lines:
        return b"".join([*lines[: line + 1], *lines[line:]])
    if how == 3 and lines:
        return b"".join(lines[:line] + lines[line + 1 :])
    if how == 4 and lines:
        rng.shuffle(lines)
        return b"".join(lines)
    if how == 5:
        return data[:at] + rng.choice(JUNK) + data[at:]
    if how == 6:
        return data.replace(b"\n", b"\r\n")
    if how == 7:
        return b"\xef\xbb\xbf" + data
    if how == 8:
        return data.decode("utf-8", "replace").encode("utf-16")
    if how == 9:
        return rng.choice(JUNK)
    if how == 10:
        return rng.randbytes(rng.randint(1, 300))
    return data + rng.choice(JUNK)


def reworded(rng: random.Random, data: bytes) -> bytes:
    """A JSON or JSON Lines file with values of the right syntax and the wrong shape; else `spoiled`."""
    try:
        whole = json.loads(data)
        return as_json(rng, reshaped(rng, whole))
    except ValueError:
        pass
    try:
        rows = [json.loads(line) for line in data.splitlines()]
    except ValueError:
        return spoiled(rng, data)
    return as_lines(rng, reshaped(rng, rows)) if rows else spoiled(rng, data)


def replaced(rng: random.Random, path: Path, others: list[Path]) -> str:
    """Do something to a file of a run or a data folder; says what."""
    data = path.read_bytes()
    how = rng.choice(
        ["spoiled"] * 5 + ["reworded"] * 5 + ["gone", "folder", "link", "fifo", "another", "link away"]
    )
    if how == "spoiled":
        path.write_bytes(spoiled(rng, data))
    elif how == "reworded":
        path.write_bytes(reworded(rng, data))
    elif how == "another":
        path.write_bytes(rng.choice(others).read_bytes())
    else:
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "link":
            path.symlink_to(rng.choice(["/nowhere", path.name, "/etc/hostname"]))
        elif how == "link away":
            path.symlink_to(rng.choice(others))
        elif how == "fifo":
            os.mkfifo(path)
    return how
