"""Digests of files: whole, and remembered for large ones only as long as they are the same file."""

import hashlib
import os

import pytest

from dice.run import digests
from dice.run.digests import file_digest, model_digest

LARGE = bytes(range(256)) * (1 << 13)  # 2 MiB


@pytest.fixture(autouse=True)
def own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digests._memory.cache_clear()
    yield
    digests._memory.cache_clear()


@pytest.fixture
def settled(tmp_path, monkeypatch):
    """A large file that was written a while ago, as far as the clock can tell."""
    path = tmp_path / "weights.safetensors"
    path.write_bytes(LARGE)
    monkeypatch.setattr(digests, "SETTLED", -60)
    return path


def test_one_byte_anywhere_matters(tmp_path):
    path, found = tmp_path / "weights.safetensors", set()
    for place in range(0, len(LARGE), len(LARGE) // 50):
        content = bytearray(LARGE)
        content[place] ^= 1
        path.write_bytes(content)
        found.add(file_digest(path))
    assert len(found) == len(range(0, len(LARGE), len(LARGE) // 50))


def test_a_large_file_is_read_once(settled, monkeypatch):
    digest = file_digest(settled)
    digests._save()
    digests._memory.cache_clear()  # another process
    monkeypatch.setattr(digests, "_read", lambda file: pytest.fail("it is read again"))
    assert file_digest(settled) == digest


@pytest.mark.parametrize("harm", ["edited", "edited with its time put back", "replaced"])
def test_a_file_that_was_touched_is_read_again(settled, tmp_path, harm):
    before, facts = file_digest(settled), settled.stat()
    other = bytearray(LARGE)
    other[1 << 20] ^= 1
    if harm == "replaced":
        (tmp_path / "other").write_bytes(other)
        os.utime(tmp_path / "other", ns=(facts.st_atime_ns, facts.st_mtime_ns))
        (tmp_path / "other").replace(settled)
    else:
        settled.write_bytes(other)
    if harm == "edited with its time put back":
        os.utime(settled, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert file_digest(settled) != before


def test_a_file_that_was_just_written_is_not_remembered(settled, monkeypatch):
    """It may be written to again within the same tick of the file system's clock."""
    monkeypatch.setattr(digests, "SETTLED", 3.0)
    file_digest(settled)
    assert not digests._memory()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 1}', '{"PATH": [1, 2]}'])
def test_a_broken_memory_is_only_forgotten(settled, text):
    memory = digests._memory_file()
    memory.parent.mkdir(parents=True)
    memory.write_text(text.replace("PATH", str(settled)))
    digests._memory.cache_clear()
    assert file_digest(settled) == hashlib.sha256(LARGE).hexdigest()
    digests._save()


def test_a_model_is_known_by_all_its_files(tmp_path):
    def make(name, weights, config="{}"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text(config)
        (folder / "model.safetensors").write_bytes(weights)
        return model_digest(str(folder))

    found = [
        make("a", LARGE),
        make("b", LARGE[:-1]),
        make("c", LARGE, '{"x": 1}'),
        make("d", b"small"),
        make("e", b"smell"),
    ]
    assert len(set(found)) == 5
    assert make("f", LARGE) == found[0]
    assert model_digest("org/name") == "org/name"
