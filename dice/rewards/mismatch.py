"""How far the engine's log-probs of its own responses are from the scorer's.

Both read the same tokens with the same model, so what they differ by is rounding: kernels and the sizes of
batches. More than that is the first sign of a wrong template, dtype or model.
"""

import math
from collections import defaultdict
from typing import Any

from dice.run.rows import Score

# RMS per token in nats: public figures in bfloat16 are 0.03 to 0.06, in float32 it is under 1e-4.
ROUNDING = {True: 0.15, False: 2e-3}  # in less than single precision, and in single precision


class Mismatch:
    """Takes a round's scores, one by one; of interest are those that both know the log-prob of."""

    def __init__(self, per_token: bool = False, rounds: int = 1) -> None:
        self.per_token, self.rounds = per_token, rounds  # whether rewards are, and what they are a mean of
        self.apart: list[float] = []  # nats, of a response: once more minus the log-prob that counts
        self.n_tokens = 0
        self.rewards: dict[str, list[tuple[float, float]]] = defaultdict(list)  # by either, of each prompt

    def add(self, score: Score) -> None:
        if score.logp_check is not None and score.logp_policy is not None:
            apart = score.logp_check - score.logp_policy
            self.apart.append(apart)
            self.n_tokens += score.n_tokens
            other = score.reward + apart / self.rounds / (score.n_tokens if self.per_token else 1)
            self.rewards[score.prompt_id].append((score.reward, other))

    def figures(self) -> dict[str, Any]:
        """Nothing where no log-prob is known twice. Else, in nats where no unit is named:

        responses compared; their mean difference; its root mean square per token, as errors of tokens add up
        that don't know of each other; the largest one of a response; and the share of the prompts whose best
        or worst response is another by the other log-probs.
        """
        if not self.apart:
            return {}
        count, squares = len(self.apart), math.fsum(apart * apart for apart in self.apart)
        changed = sum(_order(rewards, 0) != _order(rewards, 1) for rewards in self.rewards.values())
        return {
            "responses": count,
            "mean": math.fsum(self.apart) / count,
            "rms_per_token": math.sqrt(squares / self.n_tokens),
            "largest": max(map(abs, self.apart)),
            "changed_share": changed / len(self.rewards),
        }

    def warnings(self, is_rough: bool) -> list[str]:
        """A sentence where the two differ by more than rounding explains."""
        figures, limit = self.figures(), ROUNDING[is_rough]
        if not figures or figures["rms_per_token"] <= limit:
            return []
        return [
            "the engine's log-probs of its own responses and the scorer's are "
            f"{figures['rms_per_token']:.2g} nats a token apart; rounding explains {limit:g}: is the "
            "template right, are dtype and model the same?"
        ]


def _order(rewards: list[tuple[float, float]], by: int) -> tuple[int, int]:
    """The places of the best and of the worst response."""
    places = range(len(rewards))
    return max(places, key=lambda n: rewards[n][by]), min(places, key=lambda n: rewards[n][by])
