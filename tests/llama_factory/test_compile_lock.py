"""The lock under which torch's extensions are compiled goes with its process."""

import subprocess
import sys
import threading

import pytest

from compile_lock import Baton, install
from dice.recipe.paths import ROOT


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


@pytest.mark.slow
def test_what_a_killed_process_left_is_nobodys(path):
    code = "import sys, time; sys.path.insert(0, sys.argv[2]); from compile_lock import Baton\n"
    code += "print(Baton(sys.argv[1]).try_acquire(), flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, path, str(ROOT / "llama-factory" / "src")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        assert not Baton(path).try_acquire()
        waiting = threading.Thread(target=Baton(path).wait)
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        other.kill()
    waiting.join(5)
    assert not waiting.is_alive()
    ours = Baton(path)
    assert ours.try_acquire()
    ours.release()
    Baton(path).wait()  # nobody compiles


def test_torch_uses_it(monkeypatch):
    from torch.utils import cpp_extension

    monkeypatch.setattr(cpp_extension, "FileBaton", cpp_extension.FileBaton)
    install()
    assert cpp_extension.FileBaton is Baton
