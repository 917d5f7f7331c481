"""Filters, the join of responses and log-probs, and what workers leave behind, without a model."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from dice.errors import BadInput
from dice.inference import fake
from dice.launch.progress import Counter
from dice.launch.worker import Worker
from dice.rewards.implicit import Source
from dice.rewards.scoring import job_of, run_share, scored
from dice.rewards.source import unusable
from dice.run import files
from dice.run.rows import Dropped, Prompt, Response, Score, TokenRewards, prompt_id
from dice.stages.score import work

MESSAGES = [{"role": "user", "content": "Hi"}]


def response(sample, text="some words", reason="stop"):
    return Response(prompt_id(MESSAGES), sample, text, len(text), 3, reason, 0)


@pytest.fixture
def job(fake_run, tmp_path):
    """A job without responses yet: policy "ours", reference "theirs"."""
    return job_of(fake_run.recipe, tmp_path / "job", "ours", "theirs")


@pytest.fixture
def write(job, tmp_path):
    """Writes shards of responses to the one prompt."""

    def write(*shards):
        files.write_rows(tmp_path / "job" / "prompts.jsonl", [Prompt(prompt_id(MESSAGES), MESSAGES)])
        for number, rows in enumerate(shards):
            files.write_rows(files.shard_path(tmp_path / "job" / "responses", number), rows)

    return write


class Constant:
    """A scorer that gives every token of row i the log-prob start - i, a start for each model."""

    def __init__(self, starts):
        self.starts, self.used = starts, []

    def use(self, model):
        self.name = model
        self.used.append(model)

    def token_logps(self, rows, on_done):
        on_done(len(rows))
        start = self.starts[self.name]
        return [np.full(len(response), start - index) for index, (_, response) in enumerate(rows)]


def run(job, tmp_path, policy=-1.0, reference=-3.0):
    counter = Counter(tmp_path / "0.json")
    counter.expect(2 * sum(map(files.count_rows, job.shards())))
    scoring = Source(job, counter)
    scoring.scorer = Constant({"ours": policy, "theirs": reference})
    scoring.run(job.shards())
    assert counter.done == counter.total
    return scoring.scorer.used


def test_reasons_not_to_score(job):
    assert unusable(response(0, "long", "length"), job) == "cut off at the length limit"
    assert unusable(response(0, "abc"), job) == "under 4 characters"
    assert unusable(response(0, "abcd"), job) is None
    assert unusable(response(0, "x" * 6699), job) is None
    assert unusable(response(0, "x" * 6700), job) == "over 6,699 characters"


def test_scores_belong_to_their_responses(job, write, tmp_path):
    """Rows that are left out shift nothing: the second scored row is sample 3."""
    write([response(0), response(1, "abc"), response(2, "cut", "length"), response(3, "other words")])
    run(job, tmp_path)
    first, *nothing, second = scored(job)
    assert [dropped.reason for _, dropped in nothing] == ["under 4 characters", "cut off at the length limit"]
    (_, first), (_, second) = first, second
    assert (first.sample, second.sample) == (0, 3)
    # "some words" is 10 bytes and the end of the turn: 11 tokens of -1 and of -3 nats.
    assert (first.n_chars, first.n_tokens) == (10, 11)
    assert (first.logp_policy, first.logp_ref, first.reward) == (-11.0, -33.0, 22.0)
    assert (second.logp_policy, second.logp_ref, second.reward) == (-24.0, -48.0, 24.0)


def test_what_is_over_the_cutoff_is_left_out_whole(job, write, tmp_path):
    """The prompt "user: Hi" is 8 tokens, a response of 10 characters 11 with its end: 19 in all."""
    write([response(0), response(1, "x" * 11)])
    job = replace(job, cutoff_len=19)
    run(job, tmp_path)
    (_, kept), (_, dropped) = scored(job)
    assert isinstance(kept, Score)
    assert dropped == Dropped(prompt_id(MESSAGES), 1, "over 19 tokens with their prompt")


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_log_probs_that_are_not_finite_are_named(job, write, tmp_path, bad):
    write([response(0), response(7)])
    with pytest.raises(BadInput, match=r"part-00000.jsonl: prompt .* sample 0: its log-prob under ours is"):
        run(job, tmp_path, policy=bad)
    assert not list((tmp_path / "job").rglob("scores/*"))


def test_a_response_to_an_unknown_prompt_is_named(job, write, tmp_path):
    write([replace_id(response(0), "0" * 16)])
    with pytest.raises(BadInput, match="prompt 0000000000000000 is not in prompts.jsonl"):
        run(job, tmp_path)


def replace_id(row, other):
    row.prompt_id = other
    return row


def test_one_model_at_a_time_and_each_once(job, write, tmp_path):
    write([response(0)], [response(1)], [response(2)])
    used = run(job, tmp_path)
    assert used == ["ours"] * 3 + ["theirs"] * 3
    names = sorted(path.name for path in (tmp_path / "job" / "scores").glob("*.jsonl"))
    assert names == [f"{what}-0000{shard}.jsonl" for what in ("dropped", "part") for shard in range(3)]


def test_what_a_killed_worker_left_half_done_is_used(job, write, tmp_path):
    write([response(0)], [response(1)])
    run(job, tmp_path)
    expected = [path.read_bytes() for path in sorted((tmp_path / "job" / "scores").glob("*.jsonl"))]
    for path in (tmp_path / "job" / "scores").iterdir():
        path.unlink()

    counter = Counter(tmp_path / "0.json")
    scoring = Source(job, counter)
    scoring.scorer = Constant({"ours": -1.0, "theirs": -3.0})
    files.write_shard(job.beside(job.shards()[0], "policy"), _policy_half(scoring, job.shards()[0]))
    scoring.scorer.used.clear()
    scoring.run(job.shards())
    assert scoring.scorer.used == ["ours", "theirs", "theirs"]  # the second shard's half alone
    assert [path.read_bytes() for path in sorted((tmp_path / "job" / "scores").glob("*.jsonl"))] == expected


def _policy_half(scoring, shard):
    scoring.scorer.use("ours")
    return scoring._logps(shard, scoring.usable(shard)[0])


def test_token_rewards_add_up_to_the_reward(job, write, tmp_path):
    write([response(0), response(1, "abc")])
    job = replace(job, per_token=True)
    run(job, tmp_path)
    shard = job.shards()[0]
    (score,) = files.read_rows(job.beside(shard, "part"), Score)
    (tokens,) = files.read_rows(job.beside(shard, "tokens"), TokenRewards)
    assert "".join(tokens.tokens) == "some words\0"
    assert sum(tokens.token_rewards) == pytest.approx(score.reward)


def test_the_number_of_workers_does_not_matter(job, write, tmp_path):
    """The workers' shares together are the shards of one worker, byte for byte."""
    write(*[[response(number)] for number in range(5)])
    run_share(Worker(0, 1, 0, tmp_path / "alone"), job)
    scores = tmp_path / "job" / "scores"
    expected = {path.name: path.read_bytes() for path in scores.glob("*.jsonl")}
    assert len(expected) == 10  # a shard's scores, and what was dropped
    for path in scores.iterdir():
        path.unlink()
    for rank in (1, 0):
        work(Worker(rank, 2, rank, tmp_path / "two"), json.dumps(asdict(job)))
    assert {path.name: path.read_bytes() for path in scores.glob("*.jsonl")} == expected


def test_fake_log_probs_are_per_token():
    scorer = fake.Scorer(fake.Options())
    scorer.use("some model")
    (logps,) = scorer.token_logps([([1, 2], [3, 4, 0])])
    assert len(logps) == 3
    assert np.all(logps < -1)
