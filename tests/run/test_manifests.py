"""Manifests: what was written is read back, what was touched is refused by name."""

import json
import os

import pytest

from dice.errors import BadInput
from dice.run import files, manifests
from dice.run.manifests import Manifest

MANIFEST = {
    "stage": "pair",
    "round": 1,
    "inputs": {},
    "recipe": {"seed": 1},
    "outputs": {"pairs.jsonl": "0"},
    "rows_in": 2,
    "rows_out": 1,
    "dropped": {},
    "summary": "one pair, ünd [more]",
    "alpha": 0.25,
    "seconds": 0.5,
    "versions": {"torch": "2"},
    "commit": None,
}


@pytest.fixture
def path(tmp_path):
    manifests.write(tmp_path / "pair.manifest.json", Manifest.from_dict(MANIFEST))
    return tmp_path / "pair.manifest.json"


def test_what_was_written_is_read_back(path):
    manifest = manifests.read(path)
    assert (manifest.rows_out, manifest.figures, manifest.warnings) == (1, {"alpha": 0.25}, [])
    assert manifest.to_dict() == MANIFEST
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
        ({"seconds": 10**400}, r"not a manifest: Number out of range - at `\$.seconds`; put it back"),
        ({"seconds": float("nan")}, r"not a manifest: Expected `float` >= 0.0 - at `\$.seconds`"),
        ({"summary": None}, r"not a manifest: Expected `str`, got `null` - at `\$.summary`"),
        ({"rows_out": "1"}, r"not a manifest: Expected `int`, got `str` - at `\$.rows_out`"),
        ({"outputs": {".": "ab"}}, "'.' among its outputs"),
    ],
)
def test_one_that_says_what_none_can_say_is_refused(path, change, says):
    content = MANIFEST | change
    files.write_json(path, content | {"digest": manifests._digest(content)})
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
