"""How a program ends: one line on stderr, and the status that belongs to it."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from dice.launch import console as console_module
from dice.launch.console import run
from dice.recipe.paths import ROOT


@pytest.fixture(autouse=True)
def signals_kept():
    """`run` sets handlers of its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        *(
            (OSError(number, os.strerror(number), "a\x1b"), rf"a\x1b: {os.strerror(number).lower()}", 2)
            for number in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP)
        ),
        (UnicodeEncodeError("utf-8", "é\ud800", 1, 2, "surrogates not allowed"), r"é\ud800: ", 2),
        (OSError(errno.ENOSPC, "", "a\x1b"), r"a\x1b: no space left on device: make room", 1),
    ],
)
def test_a_path_that_can_not_be_is_one_line(error, line, status, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.reconfigure", lambda **_: None, raising=False)
    monkeypatch.setattr("sys.stderr.reconfigure", lambda **_: None, raising=False)

    def main():
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"error: {line}") and ended.value.code == status


@pytest.mark.parametrize("command", [["--version"], ["status", "--help"]])
def test_a_reader_that_has_gone(command):
    """As of `dice ... | head -0`: one line, no traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "dice", *command], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert ended.stderr == "stopped: nobody reads its output any more\n"
    assert ended.returncode == 128 + signal.SIGPIPE


def test_a_command_is_no_launchers_worker(monkeypatch):
    """transformers, say, would wait for the other one; the address is for a run on several nodes."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "node0"}.items():
        monkeypatch.setenv(name, value)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.reconfigure", lambda **_: None, raising=False)
    seen = {}
    run(lambda: seen.update(os.environ))
    assert not {"WORLD_SIZE", "RANK"} & seen.keys() and seen["MASTER_ADDR"] == "node0"


LINE = (
    "generate  19,200 responses to 1,200 prompts, 18 tokens on average, 21 s (dropped: 2 under 4 characters)"
)


@pytest.mark.parametrize("width", [60, 100])
def test_lines_break_at_words_on_a_terminal(width, monkeypatch):
    monkeypatch.setattr(console_module, "console", Console(width=width, force_terminal=True))
    first, *rest = console_module.fitted(LINE, 4, 14).splitlines()
    assert rest and 4 + len(first) <= width and all(len(line) <= width for line in rest)
    assert " ".join(" ".join([first, *rest]).split()) == " ".join(LINE.split())  # no word is broken
    assert all(line.startswith(" " * 14) and line[14] != " " for line in rest)


def test_lines_of_a_file_stay_whole():
    assert console_module.fitted(LINE * 9, 4, 14) == LINE * 9


def test_no_color_means_no_attributes_at_all():
    """Neither colors nor bold nor dim, on a terminal."""
    show = """
import pty, sys
code = "from dice.launch.console import say; say('done', '+'); say('so', '=')"
pty.spawn([sys.executable, "-c", code])
"""
    for value, found in (("1", False), ("", True)):
        env = {**os.environ, "NO_COLOR": value, "TERM": "xterm-256color"}
        told = subprocess.run([sys.executable, "-c", show], cwd=ROOT, env=env, capture_output=True, text=True)
        assert "done" in told.stdout and ("\x1b[" in told.stdout) is found
