"""Manifests: what was written is read back, what was touched is refused by name."""

import json
import os

import pytest

from dice.errors import BadInput
from dice.run import manifests

MANIFEST = {
    "stage": "pair",
    "inputs": {},
    "recipe": {"seed": 1},
    "outputs": {"pairs.jsonl": "0"},
    "rows_in": 2,
    "rows_out": 1,
    "dropped": {},
    "summary": "one pair, ünd [more]",
    "seconds": 0.5,
}


@pytest.fixture
def path(tmp_path):
    manifests.write(tmp_path / "pair.manifest.json", MANIFEST)
    return tmp_path / "pair.manifest.json"


def test_what_was_written_is_read_back(path):
    assert manifests.read(path) == MANIFEST
    assert manifests.read(path.with_name("no")) is None


def test_an_edited_one_is_refused(path):
    path.write_text(path.read_text().replace('"rows_out": 1', '"rows_out": 2'))
    with pytest.raises(BadInput, match="pair.manifest.json: not as it was written, .*--force"):
        manifests.read(path)


def test_one_without_its_digest_is_refused(path):
    path.write_text(json.dumps(MANIFEST))
    with pytest.raises(BadInput, match="pair.manifest.json: not as it was written"):
        manifests.read(path)


@pytest.mark.parametrize(
    "change, says",
    [
        ({"seconds": 10**400}, "not a manifest: seconds is 1000"),
        ({"seconds": float("nan")}, "not a manifest: seconds is nan"),
        ({"summary": None}, "not a manifest: summary is null"),
        ({"outputs": {".": "ab"}}, "'.' among its outputs"),
    ],
)
def test_one_that_says_what_none_can_say_is_refused(path, change, says):
    manifests.write(path, MANIFEST | change)
    with pytest.raises(BadInput, match=says):
        manifests.read(path)


@pytest.mark.parametrize("kind", ["empty", "list", "folder", "pipe", "link"])
def test_something_else_in_its_place(path, kind):
    path.unlink()
    if kind in ("empty", "list"):
        path.write_text("" if kind == "empty" else "[]")
    elif kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(BadInput, match="pair.manifest.json: not a manifest, which is a file"):
        manifests.read(path)
