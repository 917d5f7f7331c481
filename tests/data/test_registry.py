"""Entries of dataset_info.json are added and replaced, and every other letter of the file stays as it is."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from dice.data.registry import register
from dice.errors import BadInput


@pytest.mark.parametrize("text", ["{}", "{\n}\n", '{"a": {"file_name": "x"}}', '{\r\n  "a": {}\r\n}\r\n'])
def test_registries_of_every_look(tmp_path, text):
    path = tmp_path / "dataset_info.json"
    path.write_bytes(text.encode())
    assert register(path, "it", {"file_name": "y"}) == "added to"
    assert json.loads(path.read_bytes()) == json.loads(text) | {"it": {"file_name": "y"}}
    assert path.read_bytes().count(b"\r\n") in (0, path.read_bytes().count(b"\n"))


def test_a_registry_behind_a_link_stays_one(tmp_path):
    (tmp_path / "real.json").write_text("{}")
    (tmp_path / "dataset_info.json").symlink_to("real.json")
    register(tmp_path / "dataset_info.json", "it", {"file_name": "y"})
    assert (tmp_path / "dataset_info.json").is_symlink()
    assert "it" in json.loads((tmp_path / "real.json").read_text())


def test_several_at_once_all_find_their_place(tmp_path):
    """Without a lock each writes what it has read, and the entries of the others are lost."""
    registry, names = tmp_path / "dataset_info.json", [f"set-{number}" for number in range(8)]
    registry.write_text("{}")
    with ThreadPoolExecutor(len(names)) as pool:
        added = pool.map(lambda name: register(registry, name, {"file_name": "y"}), names)
        assert set(added) == {"added to"}
    assert sorted(json.loads(registry.read_text())) == names


FOUND = """{
    "first": {"columns": {"mine": "q", "caf\\u00e9": "\\"mine\\": {"}},
    "mine": {"file_name":"a.json",
             "columns": {"prompt": "q"}},

    "last":  {"hf_hub_url": "a/b"}
}
"""


def test_an_entry_is_replaced_and_nothing_else_is_touched(tmp_path):
    """A key of that name inside another entry, and a text that looks like one, are left alone."""
    path = tmp_path / "dataset_info.json"
    path.write_text(FOUND)
    entry = {"file_name": "b.json"}
    assert register(path, "mine", entry, own=tmp_path, force=True) == "replaced in"
    head, tail = FOUND.split('    "mine": {"file')[0], FOUND.split('"q"}}')[1]
    assert path.read_text() == head + '    "mine": {\n        "file_name": "b.json"\n    }' + tail
    assert register(path, "mine", entry, own=tmp_path, force=True) == "in"


@pytest.mark.parametrize("entry", [{"hf_hub_url": "a/b"}, {"file_name": "elsewhere/a.json"}, 3])
def test_an_entry_of_other_data_is_never_replaced(tmp_path, entry):
    path = tmp_path / "dataset_info.json"
    path.write_text(json.dumps({"mine": entry}))
    with pytest.raises(BadInput, match="there is another data set 'mine' already"):
        register(path, "mine", {"file_name": "b.json"}, own=tmp_path, force=True)
