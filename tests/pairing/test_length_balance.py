"""The exact search for alpha against brute force, and against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dice.pairing.length_balance import PROMPTS_AT_ONCE, balance, best_and_worst, shaped_rewards, sweep


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


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
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


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(scores())
def test_no_alpha_on_a_fine_grid_balances_better(table):
    rewards, lengths, present = table
    alpha, promised = balance(*table).best()
    assert difference_at(alpha, rewards, lengths, present) == pytest.approx(promised, abs=1e-9)
    grid = np.arange(-100, 101) / 16 + 1e-6
    reached = min(abs(difference_at(a, rewards, lengths, present)) for a in grid)
    assert abs(promised) <= reached + 1e-9


def test_where_zero_is_stepped_over():
    """+4 below 0.5 and -4 above; with a second prompt that is zero in between, it is not stepped over."""
    one = balance(np.array([[3.0, 1.0]]), np.array([[10, 6]]), np.ones((1, 2), bool))
    assert one.jump() == (0.5, 4.0, -4.0)
    rewards, lengths = np.array([[3.0, 1.0], [4.0, 0.0]]), np.array([[10, 6], [9, 5]])
    assert balance(rewards, lengths, np.ones((2, 2), bool)).jump() is None


def test_crossings_a_rounding_error_apart_are_one():
    """(0.3 - 0.1) / 2 and (0.4 - 0.2) / 2 differ in the last bit: both prompts cross at 0.1."""
    assert (0.3 - 0.1) / 2 != (0.4 - 0.2) / 2
    rewards, lengths = np.array([[0.3, 0.1], [0.4, 0.2]]), np.array([[4, 2], [4, 2]])
    found = balance(rewards, lengths, np.ones((2, 2), bool))
    assert len(found.alphas) == 1 and found.differences.tolist() == [2.0, -2.0]


def test_many_prompts_are_walked_in_parts():
    """The same three prompts over and over: the same steps as three alone."""
    rewards, lengths = np.array([[3.0, 1.0], [4.0, 0.0], [1.0, 9.0]]), np.array([[10, 6], [9, 5], [7, 3]])
    times = PROMPTS_AT_ONCE // 2
    few = balance(rewards, lengths, np.ones((3, 2), bool))
    many = balance(np.tile(rewards, (times, 1)), np.tile(lengths, (times, 1)), np.ones((3 * times, 2), bool))
    assert many.alphas.tolist() == few.alphas.tolist()
    assert many.differences == pytest.approx(few.differences)


def test_a_long_curve_is_thinned():
    rng = np.random.default_rng(0)
    rewards, lengths = rng.normal(size=(500, 8)), rng.integers(1, 99, (500, 8))
    alphas, differences = balance(rewards, lengths, np.ones((500, 8), bool)).curve(points=50)
    assert len(alphas) == len(differences) == 50
    assert (np.diff(alphas) > 0).all() and (np.diff(differences) <= 0).all()
    for alpha, difference in zip(alphas, differences, strict=True):
        assert difference_at(alpha, rewards, lengths, np.ones((500, 8), bool)) == pytest.approx(difference)


GRIDS = {  # rewards, lengths, alpha: two samples a prompt, of which the first gives way at a crossing
    # Crossings at 0.0025 and 0.0045: +4 at 0, 0.001, 0.002; 0 at 0.003, 0.004; -4 at 0.005, which ends it.
    "the first of the best": ([[0.01, 0.0], [0.018, 0.0]], [[10, 6], [10, 6]], 0.003),
    # One crossing at 0.0025, +4 to -4: as large as before, which neither ends the sweep nor is taken.
    "no better": ([[0.01, 0.0]], [[10, 6]], 0.0),
    # Crossings at 0.0025 (+4 to -4) and 0.0125 (+3 to -3): +7, then -1 from 0.003 on, -7 at 0.013.
    "past zero but nearer": ([[0.01, 0.0], [0.0, 0.0375]], [[10, 6], [4, 7]], 0.003),
    # The shorter one is better from the start: alpha would have to be negative, which the grid is not.
    "never negative": ([[1.0, 3.0]], [[10, 6]], 0.0),
    # Equal at 0.5, a point of the grid: the first sample is both best and worst there, so 0 is reached.
    "a tie on the grid": ([[3.0, 1.0]], [[10, 6]], 0.5),
    # Crossing at 2, beyond the grid.
    "out of reach": ([[9.0, 1.0]], [[10, 6]], 0.0),
}


@pytest.mark.parametrize("case", GRIDS)
def test_the_published_sweep_by_hand(case):
    rewards, lengths, alpha = GRIDS[case]
    present = np.ones(np.shape(rewards), bool)
    assert sweep(np.array(rewards), np.array(lengths), present) == pytest.approx(alpha)


def swept_by_hand(rewards, lengths, present):
    """The published sweep in plain Python: floats as they come, the first of equals, no arrays."""
    found, smallest = 0.0, None
    for step in range(1000):
        alpha, total = step * 0.001, 0
        for row in range(len(rewards)):
            shaped = [
                (rewards[row][k] - alpha * lengths[row][k], lengths[row][k])
                for k in range(len(rewards[row]))
                if present[row][k]
            ]
            total += max(shaped, key=lambda s: s[0])[1] - min(shaped, key=lambda s: s[0])[1]
        if smallest is not None and abs(total) > smallest:
            break
        if smallest is None or abs(total) < smallest:
            found, smallest = alpha, abs(total)
    return found


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(scores())
def test_the_published_sweep_bit_for_bit(table):
    assert sweep(*table) == swept_by_hand(*(side.tolist() for side in table))
