"""Round health, by hand."""

import numpy as np
import pytest

from dice.pairing import health, length_balance

ALL = np.ones((2, 2), bool)
FINE = {"duplicate_share": 0.1, "cut_off_share": 0.0, "margins": {"5%": 1.0, "50%": 2.0, "95%": 3.0}}


def test_correlation_is_taken_within_prompts():
    """Between the prompts reward and length go together; within each, one more reward, one less length."""
    rewards, lengths = np.array([[1.0, 2.0], [101.0, 102.0]]), np.array([[9, 8], [109, 108]])
    assert health.correlation(rewards, lengths, ALL) == pytest.approx(-1)
    # Centred: rewards -1, 1, 2, -2 and lengths -1, 1, -1, 1: (1 + 1 - 2 - 2) / sqrt(10 * 4).
    rewards, lengths = np.array([[1.0, 3.0], [5.0, 1.0]]), np.array([[1, 3], [1, 3]])
    assert health.correlation(rewards, lengths, ALL) == pytest.approx(-2 / 40**0.5)


def test_absent_samples_have_no_part_in_it():
    rewards, lengths = np.array([[1.0, 2.0, 99.0]]), np.array([[1, 2, -5]])
    assert health.correlation(rewards, lengths, np.array([[True, True, False]])) == pytest.approx(1)


def test_no_correlation_where_nothing_varies():
    assert health.correlation(np.ones((2, 2)), np.array([[1, 2], [3, 4]]), ALL) is None
    assert "correlation none -> none" in health.line(
        FINE | {"correlation": None, "correlation_without_shaping": None}
    )


def test_quantiles_of_margins():
    """0 to 100 in hundred steps: the quantiles are the shares themselves."""
    expected = {"5%": 5, "25%": 25, "50%": 50, "75%": 75, "95%": 95}
    assert health.quantiles(np.arange(101.0)) == pytest.approx(expected)
    assert health.quantiles(np.array([])) == {}


@pytest.mark.parametrize(
    ("figures", "pairs", "warning"),
    [
        ({}, 90, None),
        ({"duplicate_share": 0.5}, 50, None),  # at the limits, not beyond
        ({"duplicate_share": 0.83}, 90, "83% of the responses repeat"),
        ({"cut_off_share": 0.6}, 90, "60% of the responses were cut off"),
        ({}, 49, "only 49 of 100 prompts"),
        ({"margins": {"50%": 0.02}}, 90, "the median margin is 0.02 nats"),
        ({"margins": {}}, 0, "only 0 of 100 prompts"),
    ],
)
def test_warnings(figures, pairs, warning):
    found = health.warnings(FINE | figures, 100, pairs, implicit=True)
    assert len(found) == (warning is not None)
    assert not warning or found[0].startswith(warning)


def test_a_rest_too_small_to_matter_is_not_spoken_of():
    """Ten prompts that cancel out and one that does not: 4 characters of 1 prompt in 11 are 0.36."""
    rewards = np.array([[3.0, 1.0], [1.0, 3.0]] * 5 + [[3.0, 1.0]])
    lengths = np.tile([10, 6], (11, 1))
    balance = length_balance.balance(rewards, lengths, np.ones((11, 2), bool))
    assert balance.best()[1] == pytest.approx(4 / 11)
    assert health.unbalanced(balance, "chars") is None
    few = length_balance.balance(rewards[-7:], lengths[-7:], np.ones((7, 2), bool))  # 4 of 7 are 0.57
    assert "+0.6 tokens remain" in health.unbalanced(few, "tokens")
