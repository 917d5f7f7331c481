"""The exact search for alpha against brute force, and against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dice.shaping import balance, best_and_worst, shaped_rewards


def difference_at(alpha, rewards, lengths, present):
    """The mean length difference at one alpha, computed directly."""
    best, worst = best_and_worst(shaped_rewards(rewards, lengths, alpha), present)
    rows = np.arange(len(rewards))
    return (lengths[rows, best] - lengths[rows, worst]).mean()


def test_one_prompt_two_responses_by_hand():
    """Rewards 3 and 1, lengths 10 and 6: equal at 3 - 10a = 1 - 6a, that is at a = 0.5."""
    found = balance(np.array([[3.0, 1.0]]), np.array([[10, 6]]), np.ones((1, 2), bool))
    assert found.alphas.tolist() == [0.5]
    # Below 0.5 the long one is chosen (+4), above it the short one (-4).
    assert found.differences.tolist() == [4.0, -4.0]


def test_two_prompts_that_cancel_by_hand():
    """The prompt above, and one with rewards 4, 0 and lengths 9, 5: equal at a = 1.

    Between 0.5 and 1 the first prompt gives -4, the second +4: zero on average, alpha 0.75.
    """
    rewards, lengths = np.array([[3.0, 1.0], [4.0, 0.0]]), np.array([[10, 6], [9, 5]])
    found = balance(rewards, lengths, np.ones((2, 2), bool))
    assert found.differences.tolist() == [4.0, 0.0, -4.0]
    assert found.best() == (0.75, 0.0)


def test_alpha_may_be_negative():
    """The better response is the shorter one: only alpha below -0.5 would choose the longer one."""
    rewards, lengths = np.array([[1.0, 3.0], [1.0, 1.5]]), np.array([[10, 6], [10, 6]])
    found = balance(rewards, lengths, np.ones((2, 2), bool))
    # Crossings at (1 - 3) / 4 = -0.5 and (1 - 1.5) / 4 = -0.125.
    assert found.alphas.tolist() == [-0.5, -0.125]
    assert found.best() == (-0.3125, 0.0)


def test_where_all_lengths_are_equal_there_is_nothing_to_balance():
    found = balance(np.array([[1.0, 2.0]]), np.array([[7, 7]]), np.ones((1, 2), bool))
    assert found.best() == (0.0, 0.0)


def test_an_interval_without_an_end():
    """Rewards 3 and 1, lengths 10 and 6: +4 below 0.5 and -4 above, equally far from zero."""
    found = balance(np.array([[3.0, 1.0]]), np.array([[10, 6]]), np.ones((1, 2), bool))
    assert found.best() == (0.0, 4.0)  # alpha 0 lies in the first interval
    # Rewards 1 and 7 are equal at alpha -1.5, so alpha 0 lies in the last interval.
    rewards, lengths = np.array([[1.0, 7.0]]), np.array([[10, 6]])
    assert balance(rewards, lengths, np.ones((1, 2), bool)).best() == (0.0, -4.0)


def test_absent_samples_do_not_count():
    rewards = np.array([[3.0, 1.0, 99.0]])
    present = np.array([[True, True, False]])
    assert balance(rewards, np.array([[10, 6, 1]]), present).alphas.tolist() == [0.5]


def test_ties_go_to_the_lower_sample():
    best, worst = best_and_worst(np.array([[1.0, 2.0, 2.0, 1.0]]), np.ones((1, 4), bool))
    assert (best[0], worst[0]) == (1, 0)


@st.composite
def scores(draw):
    """Small tables with many ties, of rewards in eighths of a nat so that arithmetic is exact."""
    prompts, samples = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    cells = prompts * samples
    rewards = draw(st.lists(st.integers(-24, 24), min_size=cells, max_size=cells))
    lengths = draw(st.lists(st.integers(1, 9), min_size=cells, max_size=cells))
    present = np.array(draw(st.lists(st.booleans(), min_size=cells, max_size=cells))).reshape(
        prompts, samples
    )
    present[:, :1] = True
    shape = (prompts, samples)
    return np.array(rewards).reshape(shape) / 8, np.array(lengths).reshape(shape), present


@settings(max_examples=500, deadline=None)
@given(scores())
def test_the_step_function_is_the_brute_force_one(table):
    rewards, lengths, present = table
    found = balance(*table)
    assert (np.diff(found.differences) <= 0).all()
    inner = (found.alphas[1:] + found.alphas[:-1]) / 2
    ends = [found.alphas[0] - 1, found.alphas[-1] + 1] if len(found.alphas) else [0.0]
    probes = sorted({*inner.tolist(), *ends})
    for alpha, expected in zip(probes, found.differences, strict=True):
        assert difference_at(alpha, rewards, lengths, present) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=500, deadline=None)
@given(scores())
def test_no_alpha_on_a_fine_grid_balances_better(table):
    rewards, lengths, present = table
    alpha, promised = balance(*table).best()
    assert difference_at(alpha, rewards, lengths, present) == pytest.approx(promised, abs=1e-9)
    grid = np.arange(-100, 101) / 16 + 1e-6
    reached = min(abs(difference_at(a, rewards, lengths, present)) for a in grid)
    assert abs(promised) <= reached + 1e-9
