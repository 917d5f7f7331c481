"""Is this round worth training on? Figures, a line to read, and plain warnings. Pure numpy."""

from typing import Any

import numpy as np

from dice.errors import counted
from dice.pairing.length_balance import Balance

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SMALL_MARGIN = 0.1  # nats: below this, policy and reference hardly tell best from worst


def correlation(rewards: np.ndarray, lengths: np.ndarray, present: np.ndarray) -> float | None:
    """Pearson correlation of reward and length over the present samples of (P, K), within prompts.

    Both are taken relative to their prompt's mean, since only samples of a prompt are compared.
    None where one of them never varies.
    """
    count = np.maximum(present.sum(1), 1)
    centred = [
        np.where(present, x - (np.where(present, x, 0).sum(1) / count)[:, None], 0).ravel()
        for x in (rewards, lengths)
    ]
    scale = np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1]))
    return float(centred[0] @ centred[1] / scale) if scale > 0 else None


def quantiles(margins: np.ndarray) -> dict[str, float]:
    """Quantiles of the pairs' margins in shaped reward (N,) by their share in percent."""
    if not len(margins):
        return {}
    values = np.quantile(margins, QUANTILES)
    return {f"{share:.0%}": float(value) for share, value in zip(QUANTILES, values, strict=True)}


def line(figures: dict[str, Any], unit: str = "nats") -> str:
    """The figures of a round as one line; `unit` is what its rewards are counted in."""
    before, after = (
        "none" if value is None else f"{value:+z.2f}"
        for value in (figures["correlation_without_shaping"], figures["correlation"])
    )
    parts = [
        f"reward-length correlation {before} -> {after}",
        f"{figures['duplicate_share']:.0%} duplicates",
        f"{figures['cut_off_share']:.0%} cut off",
    ]
    if margins := figures["margins"]:
        low, middle, high = (margins[share] for share in ("5%", "50%", "95%"))
        parts.insert(0, f"margins {low:.1f} to {high:.1f} {unit}, median {middle:.1f}")
    return ", ".join(parts)


def collapse_line(figures: dict[str, Any]) -> str:
    """What tells whether the loop collapses, as one line (`dice.recipe.gates` says what is normal)."""
    names = ("distinct_3", "repeating", "reward_spread", "kl_per_token", "chosen_logp", "tau")
    return ", ".join(f"{name} {figures[name]:.3g}" for name in names if name in figures)


def warnings(figures: dict[str, Any], prompts: int, paired: int, implicit: bool = True) -> list[str]:
    """What looks degenerate in a round, and what can be done about it.

    Of its `prompts` so many were `paired`. Only of `implicit` rewards is it known what a small margin is.
    """
    found = []
    if (share := figures["duplicate_share"]) > 0.5:
        found.append(
            f"{share:.0%} of the responses repeat another one to their prompt: this round has little to "
            "compare; check the policy, or raise generate.temperature"
        )
    if (share := figures["cut_off_share"]) > 0.5:
        found.append(
            f"{share:.0%} of the responses were cut off: raise generate.max_new_tokens, or check that the "
            "policy ends its answers"
        )
    if paired < prompts / 2:
        found.append(
            f"only {paired:,} of {counted(prompts, 'prompt')} became a pair; the reasons are counted above"
        )
    if implicit and figures["margins"] and (median := figures["margins"]["50%"]) < SMALL_MARGIN:
        found.append(
            f"the median margin is {median:.2g} nats: policy and reference hardly differ, so the pairs "
            "are close to chance"
        )
    return found


def unbalanced(balance: Balance, unit: str) -> str | None:
    """Why the best alpha leaves a length difference, where it leaves half a character (token) or more."""
    _, remaining = balance.best()
    if abs(remaining) < 0.5 or not (jump := balance.jump()):
        return None
    alpha, above, below = jump
    return (
        f"no alpha balances the lengths: {remaining:+.1f} {unit} remain at best, for at alpha {alpha:.4g} "
        f"the mean difference steps from {above:+.1f} over zero to {below:+.1f}"
    )
