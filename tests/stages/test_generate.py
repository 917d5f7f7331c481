"""Generation: shards through a sampler, workers that share them, what is dropped, and the bar."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dice.errors import BadInput
from dice.inference import fake
from dice.inference.sampler import Request, Sampled
from dice.launch import devices, processes, worker
from dice.launch.progress import Bar, Counter, Tally, read_counters
from dice.launch.worker import Claims, Worker
from dice.recipe.keys import ROOT, Recipe
from dice.recipe.seeds import seed_of
from dice.run import files
from dice.run.rows import Prompt, Response, prompt_id
from dice.stages import checks
from dice.stages.generate import Answering, Shard, sample_shards, unfinished

SAMPLES = 8  # as in conftest's settings


def make_prompts(texts):
    turns = [[{"role": "user", "content": text}] for text in texts]
    return [Prompt(prompt_id(messages), messages) for messages in turns]


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
            yield Sampled(request.prompt_id, sample, [*b"yes", fake.STOP], "stop")


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


def alone(run):
    return Worker(0, 1, 0, run.round_dir(1) / "generate.progress")


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
                yield Sampled(request.prompt_id, sample, [fake.STOP], "stop")

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


@pytest.mark.parametrize(
    ("visible", "neighbours", "rank", "expected"),
    [
        ("0,1,2,3,4,5,6,7", 8, 3, "3"),
        ("0,1,2,3,4,5,6,7", 4, 3, "6,7"),
        ("4,5,6,7", 2, 1, "6,7"),
        ("GPU-a,GPU-b", 2, 0, "GPU-a"),
        ("2,3", 1, 0, "2,3"),
    ],
)
def test_a_worker_sees_its_own_gpus(monkeypatch, visible, neighbours, rank, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(neighbours))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    worker._leave_torchrun(Worker(rank, neighbours, rank, Path("progress")))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
    assert "LOCAL_WORLD_SIZE" not in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ


def test_tensor_parallel_engines_share_out_the_gpus(monkeypatch):
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.delenv("DICE_DEVICE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4,5")
    assert [devices.engines_per_node(each) for each in (1, 2, 3, 6)] == [6, 3, 2, 1]
    with pytest.raises(BadInput, match="tensor_parallel is 4, which 6 GPUs .* it can be 1, 2, 3, 6, or set"):
        devices.engines_per_node(4)
    monkeypatch.setenv("NPROC_PER_NODE", "4")
    assert devices.engines_per_node(4) == 1
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BadInput, match="tensor_parallel is 2, but there is no GPU"):
        devices.engines_per_node(2)


def test_only_vllm_spreads_a_model_over_gpus(monkeypatch):
    """Also where it is `auto` that has become hf; a recipe that says hf is refused when it is read."""
    monkeypatch.delenv("DICE_DEVICE", raising=False)
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")

    def found(**options):
        return checks.check_gpus(Recipe.model_construct().sampling(**options))

    assert found(engine="hf") == "4 of 1 GPU each"
    assert found(engine="vllm", tensor_parallel=2) == "2 of 2 GPUs each"
    with pytest.raises(BadInput, match="generate.tensor_parallel is 2; only vllm does that"):
        found(engine="hf", tensor_parallel=2)


def test_the_bar_tells_prompts_tokens_and_time_left():
    bar = Bar("generate", "prompts", lambda: (0, 0))
    assert bar.describe(Tally(0, 1200), 100.0) == "0 of 1,200 prompts"
    assert bar.describe(Tally(200, 1200, 9_000), 130.0) == "200 of 1,200 prompts"
    # 400 prompts in 20 seconds; 600 are left, which take 30; 40,000 tokens in those 20 seconds.
    line = bar.describe(Tally(600, 1200, 49_000), 150.0)
    assert line == "600 of 1,200 prompts · 2,000 tokens/s · 0:00:30 left"
    steps = Bar("train", "steps", lambda: (0, 0))
    assert [steps.describe(Tally(n, 10), float(n)) for n in (1, 3)][
        1
    ] == "3 of 10 steps · 1.0/s · 0:00:07 left"


def test_counters_of_all_workers_add_up(tmp_path):
    first, second = (Counter(tmp_path / f"{rank}.json") for rank in range(2))
    first.expect(10)
    first.add(3, tokens=100)
    second.add(2, tokens=50)
    for counter in (first, second):
        counter.write()
    (tmp_path / "2.json").write_text("[")  # being written at this moment
    assert read_counters(tmp_path) == Tally(5, 10, 150)
    assert json.loads((tmp_path / "1.json").read_text()) == [2, 0, 50]
    assert read_counters(tmp_path / "nothing") == Tally(0, 0)
