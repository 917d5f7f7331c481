"""Log-probs of the engine against the scorer's."""

from dice.rewards.mismatch import Mismatch
from dice.run.rows import Score


def test_rewards_by_either_are_means_over_as_many_rounds():
    """0.7 nats more for the second response are 0.35 in a mean of two rounds: it stays the worse one."""
    for rounds, share in ((1, 1.0), (2, 0.0)):
        mismatch = Mismatch(rounds=rounds)
        for sample, (reward, check) in enumerate([(1.0, -9.0), (0.5, -8.3)]):
            mismatch.add(Score("q", sample, "", 4, 5, -9.0, -9.0, reward, logp_check=check))
        assert mismatch.figures()["changed_share"] == share
