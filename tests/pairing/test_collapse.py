"""Figures of a collapse, worked out by hand."""

import numpy as np
import pytest

from dice.pairing.collapse import distinct, mean_and_deviation, taus


def test_distinct_n_grams_of_texts():
    """a b a b a: 2 of 5 words, 2 of 4 bigrams (ab, ba), 2 of 3 trigrams, 2 of 2 4-grams. The other: all."""
    found = distinct(["a b a b a", "c d"])
    assert found == {
        "distinct_1": (0.4 + 1) / 2,
        "distinct_2": (0.5 + 1) / 2,
        "distinct_3": pytest.approx(2 / 3),
        "distinct_4": 1.0,
        "repeating": 0.0,
    }
    assert distinct(["so " * 20, "one two three four five"])["repeating"] == 0.5
    assert distinct(["你好" * 5])["distinct_3"] == 2 / 8 and distinct(["ab" * 20])["repeating"] == 1.0
    assert distinct([]) == {} and distinct([""]) == {}


def test_tau_of_two_rankings():
    """Of the first prompt's three pairs one is turned round: 1/3. Of the second's, one is a tie: 2/3."""
    ours = np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 2.0], [5.0, 4.0, 0.0]])
    theirs = np.array([[2.0, 1.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 0.0]])
    present = np.array([[True] * 3, [True] * 3, [True, True, False]])  # the third: turned round, -1
    assert taus(ours, theirs, present) == pytest.approx([1 / 3, 2 / 3, -1])
    assert taus(ours, -ours, present)[0] == -1.0 and taus(ours, ours, present)[0] == 1.0
    assert np.isnan(taus(ours, theirs, np.zeros((3, 3), bool))).all()
    theirs[1, 2], present[2, 1] = np.nan, False  # of the second a tie is left, of the third a single sample
    assert taus(ours, theirs, present)[:2] == pytest.approx([1 / 3, 0])
    assert np.isnan(taus(ours, theirs, present)[2])


def test_mean_and_deviation_within_a_prompt():
    rewards = np.array([[1.0, 3.0, 99.0], [4.0, 4.0, 4.0], [9.0, 9.0, 9.0]])
    present = np.array([[True, True, False], [True] * 3, [False] * 3])
    mean, deviation = mean_and_deviation(rewards, present)
    assert (mean.tolist(), deviation.tolist()) == ([2, 4, 0], [1, 0, 0])
