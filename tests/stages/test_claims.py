"""Workers that share out what is to be done: a shard is claimed until it is written."""

import errno
import subprocess
import sys
from pathlib import Path

from generating import SAMPLES, alone, make_prompts

from dice.inference import fake
from dice.inference.sampler import Sampled
from dice.launch import worker
from dice.launch.progress import Counter
from dice.launch.worker import Claims
from dice.recipe.paths import ROOT
from dice.run import files
from dice.stages.generate import sample_shards, unfinished


def claimant(path: Path) -> subprocess.Popen:
    """Another worker's process: prints whether it gets item 5, and lives until it is killed."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from dice.launch.worker import Claims
claims = Claims(Path({str(path)!r}), 0, 2)
print(claims.take(5), flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_claim_lasts_as_long_as_its_process(tmp_path):
    other = claimant(tmp_path / "it.claims")
    assert other.stdout.readline() == "True\n"
    ours = Claims(tmp_path / "it.claims", 1, 2)
    assert ours.take(4) and not ours.take(5) and ours.take(4)
    other.kill()
    other.wait()
    assert ours.take(5)


def test_shards_at_work_stay_claimed_when_all_have_been_handed_out(tmp_path):
    files.write_rows(tmp_path / "prompts.jsonl", make_prompts("abcdef"))
    claims = Claims(tmp_path / "it.claims", 1, 2)
    assert len(list(unfinished(claims, tmp_path / "prompts.jsonl", tmp_path / "responses", 1))) == 6
    other = claimant(tmp_path / "it.claims")
    assert other.stdout.readline() == "False\n"
    other.kill()
    other.wait()


def test_a_worker_keeps_its_claims_until_it_has_written(fake_run, tmp_path, monkeypatch):
    """The engine has had all its requests, and the last shard is not written yet."""
    seen = []

    def late(self, requests):
        for request in list(requests):
            if not seen:
                other = claimant(fake_run.round_dir(1) / "generate.progress" / "responses.claims")
                seen.append(other.stdout.readline())
                other.kill()
                other.wait()
            for sample in range(SAMPLES):
                yield Sampled(request.prompt_id, sample, [fake.STOP], "stop", [-1.0])

    monkeypatch.setattr(fake.Sampler, "sample", late)
    prompts = tmp_path / "prompts.jsonl"
    files.write_rows(prompts, make_prompts(f"prompt {n}" for n in range(18)))  # six shards
    worker, counter = alone(fake_run), Counter(tmp_path / "0.json")
    sample_shards(worker, fake_run.recipe, "fake-dpo", prompts, tmp_path / "responses", 1, counter)
    assert seen == ["False\n"] and len(files.shards(tmp_path / "responses")) == 6


def test_without_locks_items_are_dealt_out(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(worker.fcntl, "lockf", no_locks)
    claims = Claims(tmp_path / "it.claims", 1, 3)
    assert [number for number in range(7) if claims.take(number)] == [1, 4]
