"""Filters, the join of responses and log-probs, and what a worker reports, without a model."""

import numpy as np
import pytest

from dice.console import Counter
from dice.engines import fake
from dice.errors import BadInput
from dice.schema import Prompt, Response, prompt_id
from dice.score import score_shard, unusable

MESSAGES = [{"role": "user", "content": "Hi"}]


def response(sample, text="some words", reason="stop"):
    return Response(prompt_id(MESSAGES), sample, text, len(text), 3, reason, 0)


class Constant:
    """Gives row i the log-prob start - i."""

    def __init__(self, start):
        self.start = start

    def logps(self, rows, on_done):
        on_done(len(rows))
        return np.array([self.start - index for index in range(len(rows))])


def score(responses, recipe, tmp_path, policy=-1.0, reference=-3.0):
    prompts = {prompt_id(MESSAGES): Prompt(prompt_id(MESSAGES), MESSAGES)}
    counter = Counter(tmp_path / "0.json")
    counter.expect(2 * len(responses))
    scorers = (Constant(policy), Constant(reference))
    scores = score_shard(responses, prompts, recipe, fake.Chat(), *scorers, counter)
    assert counter.done == counter.total
    return scores


def test_reasons_not_to_score(fake_run):
    recipe = fake_run.recipe
    assert unusable(response(0, "long", "length"), recipe) == "cut off at the length limit"
    assert unusable(response(0, "abc"), recipe) == "under 4 characters"
    assert unusable(response(0, "abcd"), recipe) is None
    assert unusable(response(0, "x" * 6699), recipe) is None
    assert unusable(response(0, "x" * 6700), recipe) == "over 6,699 characters"


def test_scores_belong_to_their_responses(fake_run, tmp_path):
    """Rows that are left out shift nothing: the second scored row is sample 3."""
    rows = [response(0), response(1, "abc"), response(2, "cut", "length"), response(3, "other words")]
    first, second = score(rows, fake_run.recipe, tmp_path)
    assert (first.sample, second.sample) == (0, 3)
    assert (first.logp_policy, first.logp_ref, first.reward) == (-1.0, -3.0, 2.0)
    assert (second.logp_policy, second.logp_ref, second.reward) == (-2.0, -4.0, 2.0)
    assert (second.n_chars, second.n_tokens) == (11, 12)  # bytes for tokens, and the end of the turn


def test_what_is_over_the_cutoff_is_left_out_whole(fake_run, tmp_path):
    """The prompt "user: Hi" is 8 tokens, a response of 10 characters 11 with its end: 19 in all."""
    fake_run.recipe.score.cutoff_len = 19
    assert len(score([response(0)], fake_run.recipe, tmp_path)) == 1
    fake_run.recipe.score.cutoff_len = 18
    assert score([response(0)], fake_run.recipe, tmp_path) == []


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_log_probs_that_are_not_finite_are_named(fake_run, tmp_path, bad):
    with pytest.raises(BadInput, match="prompt .* sample 0: log-probs are .* they must be finite"):
        score([response(0)], fake_run.recipe, tmp_path, policy=bad)
