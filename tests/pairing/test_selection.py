"""Which samples become pairs, on tables worked out by hand."""

import numpy as np
import pytest

from dice.pairing.selection import choose, margin_of, pick, told_apart
from dice.pairing.table import Table
from dice.recipe.groups import Pair


def table_of(rewards, n_chars, n_tokens=None):
    shape = np.shape(rewards)
    tokens = np.ones(shape, int) if n_tokens is None else np.array(n_tokens)
    ids = [str(row) for row in range(shape[0])]
    return Table(ids, np.array(rewards, float), np.array(n_chars), tokens, np.ones(shape, bool))


def listed(picks):
    return list(zip(*(side.tolist() for side in (picks.rows, picks.chosen, picks.rejected)), strict=True))


def test_tokens_may_be_balanced_instead():
    table = table_of([[5.0, 4.0]], [[1, 1]], [[3, 1]])
    made = choose(table, np.array([0]), Pair(length="tokens", alpha=1.0), seed=0)
    assert listed(made.picks) == [(0, 1, 0)]  # 5 - 3 = 2 and 4 - 1 = 3
    assert made.figures["length_difference"] == -2.0


def test_rows_are_those_of_the_table():
    table = table_of([[0, 0], [2, 1], [0, 0], [1, 2]], np.ones((4, 2), int))
    assert listed(choose(table, np.array([1, 3]), Pair(alpha=0), seed=0).picks) == [(1, 0, 1), (3, 1, 0)]


def test_ties_go_to_the_lower_sample():
    shaped = np.array([[1.0, 2.0, 2.0, 1.0]])
    assert listed(pick(shaped, np.ones((1, 4), bool), Pair(), seed=0)) == [(0, 1, 0)]


def test_several_pairs_of_a_prompt():
    shaped = np.array([[3.0, 5.0, 1.0, 4.0, 2.0], [1.0, 2.0, 9.0, 3.0, 9.0]])
    present = np.array([[True] * 5, [True, True, False, True, False]])
    picks = pick(shaped, present, Pair(per_prompt=2), seed=0)
    # The second prompt has three samples, so its second best has nothing left to be better than.
    assert listed(picks) == [(0, 1, 2), (0, 3, 4), (1, 3, 0)]


def test_best_against_random():
    shaped = np.tile([3.0, 5.0, 1.0, 4.0], (400, 1))
    present = np.tile([True, True, True, False], (400, 1))
    settings = Pair(rejected="random")
    picks = pick(shaped, present, settings, seed=1)
    assert (picks.chosen == 1).all()
    # Samples 0 and 2 are left, each with probability 1/2: 200 of 400, within five standard deviations.
    counts = np.bincount(picks.rejected, minlength=4)
    assert counts[1] == counts[3] == 0 and abs(counts[0] - 200) < 50
    assert listed(picks) == listed(pick(shaped, present, settings, seed=1))
    assert listed(picks) != listed(pick(shaped, present, settings, seed=2))


def test_random_pairs_of_a_prompt_share_no_sample():
    shaped = np.random.default_rng(0).normal(size=(50, 6))
    picks = pick(shaped, np.ones((50, 6), bool), Pair(rejected="random", per_prompt=3), seed=3)
    assert len(picks.rows) == 150
    used = np.stack([picks.chosen, picks.rejected], 1).reshape(50, 6)
    assert (np.sort(used, axis=1) == np.arange(6)).all()
    assert (picks.difference(shaped)[::3] >= 0).all()


def test_a_least_margin():
    table = table_of([[5, 1], [3, 1], [2, 2], [2.5, 1]], np.ones((4, 2), int))
    made = choose(table, np.arange(4), Pair(alpha=0, min_margin=2), seed=0)
    assert listed(made.picks) == [(0, 0, 1), (1, 0, 1)]  # margins 4 and 2; not 0 and 1.5
    assert made.dropped == {
        "pairs with a zero margin": 1, "pairs with equal rewards": 0, "pairs with a margin under 2": 1,
    }  # fmt: skip


@pytest.mark.parametrize("words", [{"min_margin": 2}, {"rejected": "random"}, {"per_prompt": 2}])
def test_without_shaping_the_length_difference_is_the_same_before_and_after(words):
    table = table_of([[5, 1, 1, 5], [3, 1, 2, 2], [2.5, 1, 1, 1]], [[9, 1, 2, 3], [4, 4, 8, 1], [1, 7, 1, 5]])
    figures = choose(table, np.arange(3), Pair(alpha=0, **words), seed=1).figures
    assert figures["length_difference"] == figures["length_difference_without_shaping"] != 0


def test_length_alone_makes_no_pair():
    """Shaped by 1 per character: 2, 0, -2; of the first prompt, best and worst have the same reward."""
    table = table_of([[3, 3, 3.0], [3, 3, 1]], [[1, 3, 5], [1, 2, 3]])
    table.present[1, 0] = False
    assert told_apart(table, np.arange(2)).tolist() == [1]
    made = choose(table, np.arange(2), Pair(alpha=1.0), seed=0)
    assert listed(made.picks) == [(1, 1, 2)] and made.dropped["pairs with equal rewards"] == 1


@pytest.mark.parametrize(("alpha", "expected"), [("auto", 0.75), ("grid", 0.501), (0.3, 0.3), (-2, -2.0)])
def test_alpha_is_found_or_given(alpha, expected):
    """Rewards 3, 1 of 10, 6 characters cross at 0.5; rewards 4, 0 of 9, 5 at 1; between them zero."""
    table = table_of([[3, 1], [4, 0]], [[10, 6], [9, 5]])
    assert choose(table, np.arange(2), Pair(alpha=alpha), seed=0).alpha == pytest.approx(expected)


def test_rejected_two_deviations_below_the_mean():
    """Mean 5, deviation 2.777, so -0.55 is looked for: 2 is the nearest, and -10 is absent."""
    shaped = np.array([[8.0, 8.0, 8.0, 2.0, 2.0, 2.0, -10.0, 5.0]])
    present = np.array([[True] * 6 + [False, True]])
    assert listed(pick(shaped, present, Pair(rejected="sigma"), seed=0)) == [(0, 0, 3)]


def test_the_worst_is_not_taken_where_another_is_nearer():
    """Eight at 0, one at -3, one at -9: mean -1.2, deviation 2.75, so -6.7 is looked for.

    -9 is 2.3 away from it and -3 is 3.7 away; with -12 for -9 they are 3.65 and 5.35 away.
    """
    nine = np.array([[0.0] * 8 + [-3.0, -9.0]])
    assert (nine.mean(), nine.std()) == (-1.2, pytest.approx(2.749545))
    assert pick(nine, np.ones((1, 10), bool), Pair(rejected="sigma"), seed=0).rejected.tolist() == [9]
    many = np.array([[0.0] * 30 + [-6.0, -12.0]])  # mean -0.5625, deviation 2.304: -5.17 is looked for
    assert pick(many, np.ones((1, 32), bool), Pair(rejected="sigma"), seed=0).rejected.tolist() == [30]


def test_confidence_is_a_margin_in_other_words():
    """sigma(0.1 * m) = 0.75 where 0.1 * m = ln 3, that is at m = 10.986."""
    assert margin_of(0.75, 0.1) == pytest.approx(10.98612)
    assert margin_of(0.0, 0.1) == margin_of(0.5, 0.1) == margin_of(0.2, 0.1) == 0
    table = table_of([[11, 0], [10.9, 0]], np.ones((2, 2), int))
    made = choose(table, np.arange(2), Pair(alpha=0, min_confidence=0.75), seed=0, beta=0.1)
    assert listed(made.picks) == [(0, 0, 1)] and made.dropped["pairs with a margin under 10.9861"] == 1
    twice = choose(table, np.arange(2), Pair(alpha=0, min_confidence=0.75), seed=0, beta=0.2)
    assert len(twice.picks.rows) == 2  # from 5.49 on
