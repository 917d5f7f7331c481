"""Does a reward agree with the labels of a preference set? What to know before a loop."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from dice.data.answers import read_pairs
from dice.errors import BadInput, counted, printable
from dice.launch.console import console, say, shown
from dice.pairing import health
from dice.recipe.keys import Recipe
from dice.rewards.source import source_of
from dice.run.rows import Score
from dice.run.run import Run
from dice.stages.agreement import NOTHING, Agreement
from dice.tools.score_file import score_all, settings


def correlation(x: np.ndarray, y: np.ndarray) -> str:
    """Pearson's correlation of (N,) with (N,), in words; a dash where one of them never varies."""
    found = health.correlation(x[None], y[None], np.ones((1, len(x)), bool))
    return f"correlation {NOTHING if found is None else f'{found:+.2f}'}"


def show_agreement(name: str, recipe: str | None, overrides: Sequence[str]) -> None:
    """Score both answers of every pair of a preference set, and print how they compare.

    Raises BadInput where the set or the models can't be used, StageFailed where a worker broke.
    """
    loaded = settings(recipe, overrides)
    pairs, dropped = read_pairs(name, loaded.dataset_dir)
    results = score_all(loaded, [(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs])
    kept = []
    for chosen, rejected in results:
        if chosen.score and rejected.score:
            kept.append((chosen.score, rejected.score))
        else:
            dropped[f"with an answer {chosen.reason or rejected.reason}"] += 1
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise BadInput(f"{name}: no pair can be scored ({reasons})")
    title = f"{name}: {counted(len(kept), 'pair')}, {_source(loaded)}"
    _print(title, kept, dropped, loaded)


def _source(recipe: Recipe) -> str:
    """What the rewards come from, in words."""
    score = recipe.score
    if score.reward == "reward_model":
        return f"reward model {shown(Path(Run(recipe.run_dir, recipe).reward_model()))}"
    if score.reward == "judge":
        return f"judge {recipe.policy if score.judge == 'policy' else score.judge}"
    if score.reward == "implicit":
        return f"{recipe.policy} against {recipe.reference}"
    return source_of(recipe).title


def _print(title: str, kept: list[tuple[Score, Score]], dropped: Counter[str], recipe: Recipe) -> None:
    unit, is_per_token = source_of(recipe).unit, recipe.score.normalize == "tokens"
    rewards = np.array([[score.reward for score in pair] for pair in kept])
    chars = np.array([[score.n_chars for score in pair] for pair in kept])
    tokens = np.array([[score.n_tokens for score in pair] for pair in kept])
    margins, longer = rewards[:, 0] - rewards[:, 1], chars[:, 0] - chars[:, 1]
    console.print(printable(title))
    for reason, count in dropped.items():
        say(f"not counted: {count:,} {reason}", mark="!")

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", no_wrap=True)
    for column in ("all", "chosen longer", "chosen shorter", "same length"):
        table.add_column(column, justify="right", no_wrap=True)
    parts = [margins, margins[longer > 0], margins[longer < 0], margins[longer == 0]]
    table.add_row("pairs", *(f"{len(part):,}" for part in parts))
    table.add_row("agreement", *(str(Agreement.of(part)) for part in parts))
    table.add_row(f"margin, {unit}", *(f"{part.mean():+.2f}" if len(part) else NOTHING for part in parts))
    console.print()
    console.print(table)

    spread = ", ".join(f"{share} {value:+.2f}" for share, value in health.quantiles(margins).items())
    per_token = (rewards / tokens)[:, 0] - (rewards / tokens)[:, 1]
    console.print()
    for label, value in (
        ("margin, quantiles", f"{spread} {unit}"),
        (
            "reward",
            f"chosen {rewards[:, 0].mean():+.2f}, rejected {rewards[:, 1].mean():+.2f} {unit} on average",
        ),
        (
            "length",
            f"chosen {chars[:, 0].mean():.1f}, rejected {chars[:, 1].mean():.1f} characters on average",
        ),
        ("reward and length", correlation(rewards.ravel(), chars.ravel())),
        ("margin and length difference", correlation(margins, longer)),
        *([] if is_per_token else [("reward per token agrees", str(Agreement.of(per_token)))]),
        ("the longer answer agrees", str(Agreement.of(longer))),
    ):
        console.print(f"{label:<30}{value}")
