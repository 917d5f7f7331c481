"""The whole loop, as users run it: iter.sh with the fake engine."""

import json
import sys
import time

import pytest
from commands import run_script
from fake_world import interrupt
from loops import loop, start_loop, wait_for
from outcome import files_of

from dice.run.files import shards, write_text
from dice.stages import generate


def test_a_round_and_the_evaluation(fake_settings, tmp_path):
    result = loop(*fake_settings, "rounds=1")
    assert result.returncode == 0, result.stderr
    assert "round 1" in result.stdout and "win rate against DPO" in result.stdout
    assert (tmp_path / "results" / "tiny" / "evaluate" / "evaluate.manifest.json").exists()


@pytest.mark.slow
def test_two_rounds_and_a_second_run_that_does_nothing(fake_settings, tmp_path):
    first = loop(*fake_settings)
    assert first.returncode == 0, first.stderr
    assert "round 2" in first.stdout and "win rate against DPO" in first.stdout
    run = tmp_path / "results" / "tiny"
    for t in (1, 2):
        for stage in ("generate", "score", "pair", "train"):
            assert (run / f"round-{t}" / f"{stage}.manifest.json").exists()
    results = json.loads((run / "evaluate" / "evaluate.manifest.json").read_text())["results"]
    assert [row["model"] for row in results] == ["SFT", "DPO", "round-1", "round-2"]
    # The fake engine answers differently for every model, so each round used its own.
    assert len({row["quality"] for row in results}) == 4
    before = files_of(run)
    assert not [name for name in before if "started" in name or "tmp" in name or "progress" in name]

    second = loop(*fake_settings)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("done before") == 9  # 2 rounds of 4 stages, and the evaluation
    assert files_of(run) == before


@pytest.mark.slow
def test_more_rounds_go_on_from_those_that_are_done(fake_settings, tmp_path):
    assert loop(*fake_settings, "rounds=1").returncode == 0
    more = loop(*fake_settings, "rounds=3")
    assert more.returncode == 0, more.stderr
    assert more.stdout.count("done before") == 4
    assert (tmp_path / "results" / "tiny" / "round-3" / "model").is_dir()


@pytest.mark.slow
def test_a_changed_recipe_reruns_what_depends_on_it_and_says_why(fake_settings):
    assert loop(*fake_settings, "rounds=1").returncode == 0
    refused = loop(*fake_settings, "rounds=1", "replay.gamma=0.25")
    assert refused.returncode == 2 and "recipe    replay.gamma 0.5 -> 0.25" in refused.stdout
    (line,) = refused.stderr.splitlines()
    assert "pair of round 1 would have to run again with this recipe; --force does that" in line
    again = loop(*fake_settings, "rounds=1", "replay.gamma=0.25", "--force")
    assert "pair      runs again: replay.gamma 0.5 -> 0.25" in again.stdout
    assert again.stdout.count("done before") == 2  # generate and score do not depend on gamma


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a loop takes its stage along on Linux only")
def test_a_killed_loop_takes_its_stage_along(fake_settings, tmp_path):
    """SIGKILL to iter.sh alone: nothing goes on beside the run that replaces it."""
    process = start_loop(*fake_settings)
    wait_for(tmp_path / "results" / "tiny" / "round-1" / "generate.started.json")
    process.kill()
    process.wait()
    time.sleep(1)
    before = files_of(tmp_path / "results")
    time.sleep(2)
    assert files_of(tmp_path / "results") == before
    assert not (tmp_path / "results" / "tiny" / "round-1" / "train.manifest.json").exists()


@pytest.mark.slow
def test_what_killed_writers_left_is_removed(fake_run):
    command = (sys.executable, "-m", "dice", "generate", str(fake_run.path), "1")
    folder = fake_run.round_dir(1)
    write_text(folder / "responses" / ".part-00000.jsonl.123.tmp", "half a sha")
    assert run_script(*command).returncode == 0
    assert not list(folder.rglob("*.tmp"))
    manifest = json.loads((folder / "generate.manifest.json").read_text())
    assert not [name for name in manifest["outputs"] if "tmp" in name]
    write_text(folder / "generate.started.json", "{}")  # killed just before it was removed
    assert "done before" in run_script(*command).stdout
    assert not (folder / "generate.started.json").exists()


@pytest.mark.slow
def test_a_missing_shard_is_noticed_and_made_again(fake_run):
    command = (sys.executable, "-m", "dice", "generate", str(fake_run.path), "1")
    assert run_script(*command).returncode == 0
    first, second, *_ = shards(fake_run.round_dir(1) / "responses")
    was, content = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    refused = run_script(*command)
    assert refused.returncode == 2
    assert "responses/part-00001.jsonl is missing since generate wrote it" in refused.stderr
    assert "runs again: responses/part-00001.jsonl is missing" in run_script(*command, "--force").stdout
    assert second.read_bytes() == content and first.stat().st_mtime_ns == was


@pytest.mark.slow
def test_finished_shards_are_kept(fake_run):
    """A stage that stopped half-way samples only what is missing."""
    assert run_script(sys.executable, "-m", "dice", "generate", str(fake_run.path), "1").returncode == 0
    folder = fake_run.round_dir(1)
    first, second, *_ = shards(folder / "responses")
    interrupt(generate.STAGE, fake_run, 1)
    was, content = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    assert run_script(sys.executable, "-m", "dice", "generate", str(fake_run.path), "1").returncode == 0
    assert first.stat().st_mtime_ns == was
    assert second.read_bytes() == content


@pytest.mark.slow
def test_a_failing_stage_ends_the_run_with_the_end_of_its_log(fake_settings, tmp_path):
    (tmp_path / "not-a-model").mkdir()
    result = loop(*fake_settings, f"policy={tmp_path / 'not-a-model'}")
    assert result.returncode == 1
    assert "round 1" in result.stdout and "round 2" not in result.stdout
    log = tmp_path / "results" / "tiny" / "round-1" / "logs" / "generate.log"
    assert "error: generate failed (status 1). The end of its log:" in result.stderr
    assert "FileNotFoundError" in result.stderr and f"whole log: {log}" in result.stderr
    assert not (log.parent.parent / "generate.manifest.json").exists()
