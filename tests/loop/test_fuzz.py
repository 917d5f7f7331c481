"""The fuzzer, with few inputs: nothing that is read can bring a command down, or change a result unsaid."""

import fuzz
import pytest
from fuzz_input import READERS
from fuzz_round import COMMANDS

NEEDS_TORCH = {"model: loaded"}


@pytest.mark.slow
def test_few_inputs_of_every_kind(tmp_path):
    names = {*READERS} | {*COMMANDS}
    found = list(fuzz.fuzz(tmp_path, 3, seed=7, without=NEEDS_TORCH))
    assert {tally.name for tally in found} == names - NEEDS_TORCH and all(tally.tried for tally in found)
    assert not [(tally.name, case) for tally in found for cases in tally.faults.values() for case in cases]


def test_a_fault_is_told(capsys, monkeypatch):
    """The fuzzer itself: what falls over is counted and shown, and ends it with status 1."""

    def reader(given, folder):
        return "it", lambda: {}["gone"]

    monkeypatch.setitem(READERS, "one that fails", reader)
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--examples", "2", "--only", "one that fails"])
    assert fuzz.main() == 1
    shown = capsys.readouterr().out
    assert "KeyError: 'gone'" in shown and "2 inputs, 2 faults" in shown


@pytest.mark.slow
def test_more_inputs_and_models_that_are_loaded(tmp_path):
    found = list(fuzz.fuzz(tmp_path, 40, seed=11))
    assert not [(tally.name, case) for tally in found for cases in tally.faults.values() for case in cases]
