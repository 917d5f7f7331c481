"""The loop that compares rewards with held-out labels, and goes on with what is done."""

import hashlib
import json

import pytest
from loops import loop

pytestmark = pytest.mark.slow

# Of a run without options, as it was before there were any: the first 16 hex digits of sha256.
BEFORE = {
    "round-2/pairs.jsonl": "10b152ce73dbe363",
    "round-2/dataset/mixed.json": "08ae1b902f399c52",
    "round-2/alpha.jsonl": "c3e868f37230d53f",
    "round-2/scores/part-00000.jsonl": "094ca6635a7b4797",
    "round-2/model/config.json": "bc5bf71fb4e16c7b",
}


def test_before_round_1_and_after_each_round(fake_settings, tmp_path):
    settings = [*fake_settings, "evaluate.preferences=some_pairs", "replay.select=top"]
    first = loop(*settings)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("agree     implicit rewards agree with ") == 3
    assert first.stdout.index("agree     ") < first.stdout.index("round 1")
    folder = tmp_path / "results" / "tiny"
    found = [
        json.loads((folder / "agreement" / name / "agree.manifest.json").read_text())
        for name in ("before-round-1", "after-round-1", "after-round-2")
    ]
    assert all(0 <= one["agreement"] <= 1 and one["rows_out"] == 20 for one in found)
    again = loop(*settings)
    assert again.returncode == 0 and again.stdout.count("done before") == 2 * 4 + 3 + 1


def test_a_collapse_is_stopped_in_its_round_and_the_report_says_why(fake_settings, tmp_path):
    """Round 2's reward of the fake engine ranks responses otherwise than round 1's: no tau of 0.9."""
    words = [word for word in fake_settings if word != "report=false"]
    stopped = loop(*words, "score.consistency=true", "gates=[tau >= 0.9, distinct_3 > 0.1]")
    assert stopped.returncode == 3 and "round 2" in stopped.stdout, stopped.stderr
    folder = tmp_path / "results" / "tiny"
    assert "tau is -0.34, not >= 0.9 (pair of round 2); the best model so far is the one" in stopped.stderr
    assert (folder / "round-2" / "pair.manifest.json").exists() and not (
        folder / "round-2" / "model"
    ).exists()
    assert "gate closed: tau is -0.34, not &gt;= 0.9" in (folder / "report.html").read_text()
    again = loop(*words, "score.consistency=true", "gates=[tau >= 0.9, distinct_3 > 0.1]")
    assert again.returncode == 3 and "✓" not in again.stdout.replace("✓ report", "")
    on = loop(*words, "score.consistency=true", "gates=[tau >= 0.9, warn]")
    assert on.returncode == 0 and "gate: tau is -0.34" in on.stdout, on.stderr


def test_without_options_the_results_are_what_they_were(fake_settings, tmp_path):
    assert loop(*fake_settings).returncode == 0
    folder = tmp_path / "results" / "tiny"
    found = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16] for name in BEFORE}
    assert found == BEFORE
