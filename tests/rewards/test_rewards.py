"""Filters, the join of responses and log-probs, and what workers leave behind, without a model."""

import numpy as np
import pytest

from dice.errors import BadInput
from dice.inference import fake
from dice.launch.progress import Counter
from dice.launch.worker import Worker
from dice.rewards.implicit import Source
from dice.rewards.scoring import score_shards, scored, work
from dice.rewards.source import beside, responses_of, unusable
from dice.run import files
from dice.run.rows import Dropped, Prompt, Response, Score, TokenRewards, prompt_id
from dice.run.run import create_run

MESSAGES = [{"role": "user", "content": "Hi"}]


def response(sample, text="some words", reason="stop"):
    return Response(prompt_id(MESSAGES), sample, text, len(text), 3, reason, 0)


@pytest.fixture
def run(fake_run):
    """A run without responses yet: policy "ours", reference "theirs"."""
    fake_run.recipe.policy, fake_run.recipe.reference = "ours", "theirs"
    return create_run(fake_run.recipe)


@pytest.fixture
def write(run):
    """Writes shards of responses to the one prompt of round 1."""

    def write(*shards):
        files.write_rows(run.round_dir(1) / "prompts.jsonl", [Prompt(prompt_id(MESSAGES), MESSAGES)])
        for number, rows in enumerate(shards):
            files.write_rows(files.shard_path(run.round_dir(1) / "responses", number), rows)

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


def score(run, tmp_path, policy=-1.0, reference=-3.0, **options):
    """Score round 1 with a scorer that is returned."""
    counter, shards = Counter(tmp_path / "0.json"), responses_of(run, 1)
    counter.expect(2 * sum(map(files.count_rows, shards)))
    scoring = Source(run, 1, counter, **options)
    scoring.scorer = Constant({"ours": policy, "theirs": reference})
    scoring.score(shards)
    assert counter.done == counter.total
    return scoring.scorer


def written(run):
    """The content of what is in scores/, by name."""
    return {path.name: path.read_bytes() for path in (run.round_dir(1) / "scores").glob("*.jsonl")}


def remove_scores(run):
    for path in (run.round_dir(1) / "scores").iterdir():
        path.unlink()


def test_reasons_not_to_score(run):
    assert unusable(response(0, "long", "length"), run.recipe) == "cut off at the length limit"
    assert unusable(response(0, "abc"), run.recipe) == "under 4 characters"
    assert unusable(response(0, "abcd"), run.recipe) is None
    assert unusable(response(0, "x" * 6699), run.recipe) is None
    assert unusable(response(0, "x" * 6700), run.recipe) == "over 6,699 characters"


def test_scores_belong_to_their_responses(run, write, tmp_path):
    """Rows that are left out shift nothing: the second scored row is sample 3."""
    write([response(0), response(1, "abc"), response(2, "cut", "length"), response(3, "other words")])
    score(run, tmp_path)
    first, *nothing, second = scored(run, 1)
    assert [dropped.reason for dropped in nothing] == ["under 4 characters", "cut off at the length limit"]
    assert (first.sample, second.sample) == (0, 3)
    # "some words" is 10 bytes and the end of the turn: 11 tokens of -1 and of -3 nats.
    assert (first.n_chars, first.n_tokens) == (10, 11)
    assert (first.logp_policy, first.logp_ref, first.reward) == (-11.0, -33.0, 22.0)
    assert (second.logp_policy, second.logp_ref, second.reward) == (-24.0, -48.0, 24.0)


def test_what_is_over_the_cutoff_is_left_out_whole(run, write, tmp_path):
    """The prompt "user: Hi" is 8 tokens, a response of 10 characters 11 with its end: 19 in all."""
    write([response(0), response(1, "x" * 11)])
    run.recipe.score.cutoff_len = 19
    score(run, tmp_path)
    kept, dropped = scored(run, 1)
    assert isinstance(kept, Score)
    assert dropped == Dropped(prompt_id(MESSAGES), 1, "over 19 tokens with their prompt")


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_log_probs_that_are_not_finite_are_named(run, write, tmp_path, bad):
    write([response(0), response(7)])
    with pytest.raises(BadInput, match=r"part-00000.jsonl: prompt .* sample 0: its log-prob under ours is"):
        score(run, tmp_path, policy=bad)
    assert not written(run)


def test_a_response_to_an_unknown_prompt_is_named(run, write, tmp_path):
    write([replace_id(response(0), "0" * 16)])
    with pytest.raises(BadInput, match="prompt 0000000000000000 is not in prompts.jsonl"):
        score(run, tmp_path)


def replace_id(row, other):
    row.prompt_id = other
    return row


def test_one_model_at_a_time_and_each_once(run, write, tmp_path):
    write([response(0)], [response(1)], [response(2)])
    assert score(run, tmp_path).used == ["ours"] * 3 + ["theirs"] * 3
    names = [f"{what}-0000{shard}.jsonl" for what in ("dropped", "part") for shard in range(3)]
    assert sorted(written(run)) == names


def test_every_response_is_encoded_once(run, write, tmp_path, monkeypatch):
    """Tokenizing takes longer than passing ids on: the reference reads what the policy's pass has left."""
    encode, texts = fake.Chat.encode, []
    monkeypatch.setattr(
        fake.Chat,
        "encode",
        lambda self, turns, text, *ids: texts.append(text) or encode(self, turns, text, *ids),
    )
    write([response(0, "one word")], [response(1, "two words"), response(2, "abc")])
    score(run, tmp_path)
    assert texts == ["one word", "two words"]


def test_what_a_killed_worker_left_half_done_is_used(run, write, tmp_path, monkeypatch):
    """Killed before the reference's turn; then one of two shards' files is damaged."""
    write([response(0), response(1, "abc")], [response(2)])
    score(run, tmp_path)
    expected = written(run)
    remove_scores(run)

    def killed(self, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Source, "_read_by_other", killed)
        score(run, tmp_path)
    halves = [f"{what}-0000{shard}.jsonl" for what in ("dropped", "halfway") for shard in range(2)]
    assert sorted(written(run)) == halves
    with beside(responses_of(run, 1)[1], "halfway").open("ab") as file:
        file.write(b"x")
    assert score(run, tmp_path).used == ["ours", "theirs", "theirs"]  # the second shard alone
    assert written(run) == expected


def test_token_rewards_add_up_to_the_reward(run, write, tmp_path):
    write([response(0), response(1, "abc")])
    score(run, tmp_path, per_token=True)
    shard = responses_of(run, 1)[0]
    (row,) = files.read_rows(beside(shard, "part"), Score)
    (tokens,) = files.read_rows(beside(shard, "tokens"), TokenRewards)
    assert "".join(tokens.tokens) == "some words\0"
    assert sum(tokens.token_rewards) == pytest.approx(row.reward)


def test_the_number_of_workers_does_not_matter(run, write, tmp_path):
    """The workers' shares together are the shards of one worker, byte for byte."""
    write(*[[response(number)] for number in range(5)])
    score_shards(Worker(0, 1, 0, tmp_path / "alone"), run, 1)
    expected = written(run)
    assert len(expected) == 10  # a shard's scores, and what was dropped
    remove_scores(run)
    for rank in (1, 0):
        work(Worker(rank, 2, rank, tmp_path / "two"), str(run.path), "1")
    assert written(run) == expected


def test_fake_log_probs_are_per_token():
    scorer = fake.Scorer(fake.Options())
    scorer.use("some model")
    (logps,) = scorer.token_logps([([1, 2], [3, 4, 0])])
    assert len(logps) == 3
    assert np.all(logps < -1)
