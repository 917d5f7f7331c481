"""scripts/gpu_check.sh: it goes on where something is missing or breaks, and says so."""

import importlib
import json
import sys

import gpu_check
import gpu_check_parts
import pytest
from commands import run_script


def test_shares_are_of_the_matrix_rate_in_the_same_precision():
    rate = {"part": "matrix", "what": "m", "value": 2, "unit": "TFLOP/s", "flops": 2e12, "dtype": "bfloat16"}
    tokens = {"part": "score", "what": "tokens", "value": 9, "unit": "a second", "flops": 5e11}
    lines = [rate, tokens | {"dtype": "bfloat16"}, tokens | {"dtype": "float32"}]
    _, same, other = gpu_check.with_shares(lines)
    assert same["share"] == 0.25 and gpu_check.shown(same).endswith("9 a second, 25.0% of the matrix rate")
    assert "share" not in other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "seconds", "ending"),
    [
        ("print('x'); raise ValueError('no kernel')\n", 60, {"failed": "status 1: ValueError: no kernel"}),
        ("import os; os.abort()\n", 60, {"failed": "status -6: it said nothing"}),
        ("import time; time.sleep(60)\n", 10, {"skipped": "not done after 10 s"}),
    ],
)
def test_a_part_that_breaks_costs_its_own_lines_alone(tmp_path, monkeypatch, code, seconds, ending):
    (tmp_path / "speed").mkdir()
    first = 'import sys; open(sys.argv[3], \'a\').write(\'{"what": "it", "value": 1}\\n\')\n'
    (tmp_path / "speed" / "gpu_check_parts.py").write_text(first + code)
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    found = gpu_check.lines_of("score", tmp_path, seconds)
    assert found == [{"part": "score", "what": "it", "value": 1}, {"part": "score", **ending}]


def test_what_is_not_installed_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check_parts.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(gpu_check_parts, "device", lambda: "cpu")
    for part, package in (("vllm", "vllm"), ("train table full", "llamafactory")):
        assert list(gpu_check_parts.PARTS[part](tmp_path)) == [{"skipped": f"{package} is not installed"}]

    def lacking(folder):
        yield importlib.import_module("no_such_package")

    monkeypatch.setitem(gpu_check_parts.PARTS, "lacking", lacking)
    gpu_check_parts.main("lacking", str(tmp_path), str(tmp_path / "found"))
    assert json.loads((tmp_path / "found").read_text()) == {"skipped": "no package 'no_such_package'"}


@pytest.mark.slow
def test_it_measures_here(tmp_path):
    ran = run_script("bash", "scripts/gpu_check.sh", "--only=hf", f"--output={tmp_path / 'it.json'}")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = json.loads((tmp_path / "it.json").read_text())["lines"]
    assert {line["part"] for line in lines} == {"machine", "matrix", "hf"}
    assert lines[0]["versions"]["python"] == sys.version.split()[0]
