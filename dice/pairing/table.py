"""A round as numbers: arrays with a row per prompt and a column per sample."""

from dataclasses import dataclass, field

import numpy as np


@dataclass
class Table:
    """The prompts of a round and the scores of their samples, (P, K); rows are in file order."""

    prompt_ids: list[str]
    rewards: np.ndarray  # in the unit of their source; 0 where absent
    n_chars: np.ndarray
    n_tokens: np.ndarray
    present: np.ndarray  # whether the sample was scored
    # NaN where they are not known: log-probs under the policy and the reference, the round before's reward.
    logp_policy: np.ndarray | None = None
    logp_ref: np.ndarray | None = None
    reward_before: np.ndarray | None = None
    row_of: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.row_of = {prompt: row for row, prompt in enumerate(self.prompt_ids)}

    @classmethod
    def empty(cls, prompt_ids: list[str], samples: int) -> "Table":
        """A table without a score."""
        shape = (len(prompt_ids), samples)
        lengths = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        known = [np.full(shape, np.nan) for _ in range(3)]
        return cls(prompt_ids, np.zeros(shape), *lengths, np.zeros(shape, bool), *known)

    def lengths(self, unit: str) -> np.ndarray:
        """What alpha multiplies, (P, K): `unit` is chars or tokens."""
        return self.n_chars if unit == "chars" else self.n_tokens


@dataclass(frozen=True)
class Sampled:
    """What all responses of a round tell, whether they were scored or not."""

    responses: int
    cut_off: int  # hit the length limit
    duplicates: int  # of another response to the same prompt, letter by letter
