"""Generation: shards through a sampler, workers that share them, and what is dropped."""

import subprocess
import sys
from pathlib import Path

import pytest
from generating import SAMPLES, alone, make_prompts

from dice.errors import BadInput
from dice.inference import fake
from dice.inference.sampler import Request, Sampled
from dice.launch import processes
from dice.launch.progress import Counter, read_counters
from dice.recipe.paths import ROOT
from dice.recipe.seeds import seed_of
from dice.run import files
from dice.run.rows import Response
from dice.stages.generate import Answering, Shard, sample_shards


class SomeSampler:
    """Answers in an order of its own, `held` prompts late; remembers what it was asked."""

    vocabulary, takes_stream = 256, True

    def __init__(self, held: int = 0, max_model_len: int = 1000) -> None:
        self.held, self.max_model_len = held, max_model_len
        self.asked: list[Request] = []

    def sample(self, requests):
        waiting = []
        for request in requests:
            self.asked.append(request)
            waiting.append(request)
            if len(waiting) > self.held:
                yield from self.answers(waiting.pop())  # the newest first
        for request in waiting:
            yield from self.answers(request)

    def answers(self, request):
        for sample in reversed(range(SAMPLES)):
            yield Sampled(request.prompt_id, sample, [*b"yes", fake.STOP], "stop", [-1.0] * 4)


@pytest.fixture
def answering(fake_run, tmp_path):
    """Makes an Answering of a sampler, with a counter."""

    def make(sampler):
        counter = Counter(tmp_path / "progress" / "0.json")
        return Answering(fake_run.recipe, 1, fake.Chat(), sampler, counter)

    return make


def rows_of(path):
    return list(files.read_rows(path, Response))


def test_shards_are_written_in_order_whatever_the_order_of_the_answers(answering, tmp_path):
    prompts = make_prompts(["one", "two", "three", "four", "five"])
    shards = [Shard(tmp_path / "a", prompts[:3]), Shard(tmp_path / "b", prompts[3:])]
    answering(SomeSampler(held=3)).run(iter(shards))
    for path, part in ((tmp_path / "a", prompts[:3]), (tmp_path / "b", prompts[3:])):
        expected = [(prompt.prompt_id, sample) for prompt in part for sample in range(SAMPLES)]
        assert [(row.prompt_id, row.sample) for row in rows_of(path)] == expected
    row = rows_of(tmp_path / "a")[1]
    assert (row.response, row.n_chars, row.n_tokens) == ("yes", 3, 4)
    assert row.seed == seed_of(42, 1, prompts[0].prompt_id) + 1


def test_a_sampler_gets_the_next_shard_before_it_is_done_with_the_last(answering, tmp_path):
    """And not earlier than it asks: the third shard is not even made."""
    prompts, written = make_prompts("abcdef"), []

    def shards():
        for number in range(3):
            written.append((tmp_path / "0").exists())
            yield Shard(tmp_path / str(number), prompts[2 * number :][:2])

    sampler = SomeSampler(held=2)
    run = answering(sampler)
    stream = sampler.sample(run._requests(shards()))
    next(stream)
    assert written == [False, False] and len(sampler.asked) == 3


def test_a_sampler_without_a_stream_gets_one_shard_after_the_other(answering, tmp_path):
    prompts, calls = make_prompts("abc"), []

    class OneByOne(SomeSampler):
        takes_stream = False

        def sample(self, requests):
            requests = list(requests)
            calls.append(len(requests))
            return super().sample(requests)

    answering(OneByOne()).run(iter([Shard(tmp_path / "0", prompts[:2]), Shard(tmp_path / "1", prompts[2:])]))
    assert calls == [2, 1]


def test_a_prompt_that_leaves_no_room_is_dropped_and_said(answering, tmp_path, capsys):
    """ "user: " and the text are one token a byte: 16 of them leave room for one token, 17 for none."""
    prompts = make_prompts(["x" * 9, "x" * 11, "y" * 12])
    sampler = SomeSampler(max_model_len=17)
    run = answering(sampler)
    run.run(iter([Shard(tmp_path / "0", prompts[:2]), Shard(tmp_path / "1", prompts[2:])]))
    assert {row.prompt_id for row in rows_of(tmp_path / "0")} == {prompts[0].prompt_id}
    assert rows_of(tmp_path / "1") == []
    assert run.counter.done == 3
    assert f"dropped prompt {prompts[2].prompt_id}: 18 tokens of 17" in capsys.readouterr().out


def test_a_token_without_an_embedding_is_named(answering, tmp_path):
    with pytest.raises(BadInput, match=r"has token id 195, .* below 100 only: its tokenizer or template"):
        sampler = SomeSampler()
        sampler.vocabulary = 100
        answering(sampler).run([Shard(tmp_path / "0", make_prompts(["Jabberwöcky"]))])
    assert not (tmp_path / "0").exists()


def test_what_is_too_long_is_counted_in_the_manifest(fake_run, monkeypatch):
    from dice.stages import generate
    from dice.stages.order import execute

    monkeypatch.setattr(fake.Sampler, "max_model_len", len(b"user: Tell me about stars.") + 1)
    monkeypatch.setattr(
        processes, "run_workers", lambda *_: generate.work(alone(fake_run), str(fake_run.path), "1")
    )
    manifest = execute(generate.STAGE, fake_run, 1)
    # Of the ten topics of conftest, stars, bread and chess have five letters, boats too; none has more.
    assert manifest.dropped == {"prompts too long for the model": 0}
    monkeypatch.setattr(fake.Sampler, "max_model_len", len(b"user: Tell me about stars."))
    files.remove(fake_run.round_dir(1))
    manifest = execute(generate.STAGE, fake_run, 1)
    assert manifest.dropped == {"prompts too long for the model": 4}
    assert manifest.rows_out == 6 * SAMPLES and " to 6 prompts" in manifest.summary


def worker_process(folder: Path, run, rank: int, world_size: int) -> subprocess.Popen:
    """`python -m dice.launch.worker generate`, as torchrun starts it."""
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    sizes = {"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size)}
    command = [
        sys.executable,
        "-m",
        "dice.launch.worker",
        "dice.stages.generate",
        str(folder),
        str(run.path),
        "1",
    ]
    return subprocess.Popen(command, cwd=ROOT, env={**processes.environment(), **ranks, **sizes})


def test_workers_share_what_is_left_and_write_the_bytes_of_one(fake_run, tmp_path):
    """Shards 0 and 2 of four are there: dealt out beforehand, one of two workers would have nothing to do."""
    folder = fake_run.round_dir(1)
    files.write_rows(folder / "prompts.jsonl", make_prompts(f"prompt {n}" for n in range(10)))
    sample_shards(
        alone(fake_run), fake_run.recipe, "fake-dpo", folder / "prompts.jsonl", folder / "responses", 1,
        Counter(tmp_path / "0.json"),
    )  # fmt: skip
    expected = {path.name: path.read_bytes() for path in files.shards(folder / "responses")}
    assert len(expected) == 4 and len(set(expected.values())) == 4
    for number in (1, 3):
        files.shard_path(folder / "responses", number).unlink()
    workers = [worker_process(tmp_path / "progress", fake_run, rank, 2) for rank in range(2)]
    assert [process.wait(timeout=60) for process in workers] == [0, 0]
    assert {path.name: path.read_bytes() for path in files.shards(folder / "responses")} == expected
    assert read_counters(tmp_path / "progress").done == 4
