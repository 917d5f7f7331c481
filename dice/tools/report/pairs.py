"""Pairs to read: some of a round's, with all samples of their prompts, and token rewards where known."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dice.run import files
from dice.run.rows import Pair, TokenRewards
from dice.run.run import Run
from dice.tools.report.collect import Round
from dice.tools.report.difference import differences
from dice.tools.report.samples import samples
from dice.tools.report.text import clipped, embedded, fitting, visible
from dice.tools.report.tokens import token_rewards

PAIRS = 100  # of a round
LONGEST = 8000  # characters of a text that are shown


def spread(margins: np.ndarray, count: int, seed: int) -> list[int]:
    """Indices of at most `count` of (M,) margins: the highest, the lowest and random ones in turn.

    So any beginning of the list is spread in the same way.
    """
    order = np.argsort(-margins, kind="stable")
    lottery = np.random.default_rng(seed).permutation(len(margins))
    taken: dict[int, None] = {}
    for three in zip(order.tolist(), order[::-1].tolist(), lottery.tolist(), strict=True):
        taken.update(dict.fromkeys(three))
        if len(taken) >= count:
            break
    return list(taken)[:count]


def sample(run: Run, done: Round, compute: bool, room: int) -> dict[str, Any]:
    """Pairs of a round as the page wants them (templates/report.js), in at most `room` bytes of JSON.

    `compute`: token rewards that are not there are computed, which loads both models.
    """
    folder, settings = run.round_dir(done.t), done.manifest("pair")
    path = folder / "pairs.jsonl"
    margins = np.array([_margin(pair) for pair in files.read_rows(path, Pair)])
    indices = spread(margins, PAIRS, run.recipe.seed)
    pairs = _read(path, indices)
    found, note = token_rewards(run, done.t, pairs, compute)
    ranks = np.empty(len(margins), int)
    ranks[np.argsort(-margins, kind="stable")] = np.arange(1, len(margins) + 1)
    unit = settings.recipe["pair"]["length"]
    others = samples(folder, {pair.prompt_id for pair in pairs}, settings.figures["alpha"], unit)
    shown = [
        _shown(pair, int(ranks[index]), found) | {"samples": others.get(pair.prompt_id, [])}
        for index, pair in zip(indices, pairs, strict=True)
    ]
    about = {"round": done.t, "of": len(margins), "unit": done.reward_unit, "note": note}
    return about | {"pairs": fitting(shown, lambda pair: len(embedded(pair).encode()), room)}


def _margin(pair: Pair) -> float:
    return pair.chosen_shaped - pair.rejected_shaped


def _read(path: Path, indices: Sequence[int]) -> list[Pair]:
    """The pairs of a file at these indices, in their order."""
    wanted = set(indices)
    rows = enumerate(files.read_rows(path, Pair))
    found = {index: pair for index, pair in rows if index in wanted}
    return [found[index] for index in indices]


def _shown(pair: Pair, rank: int, found: dict[tuple[str, int], TokenRewards]) -> dict[str, Any]:
    prompt = [[visible(m["role"]), visible(clipped(m["content"], LONGEST))] for m in pair.messages]
    sides = {side: _side(pair, side, found) for side in ("chosen", "rejected")}
    texts = ("".join(side["tokens"][: side["of_text"]]) for side in sides.values())
    for side, parts in zip(sides.values(), differences(*texts), strict=True):
        side["differs"] = parts
    return {"id": pair.prompt_id, "prompt": prompt, "margin": round(_margin(pair), 3), "rank": rank, **sides}


def _side(pair: Pair, name: str, known: dict[tuple[str, int], TokenRewards]) -> dict[str, Any]:
    """One response; the first `of_text` of its tokens are its text, what follows ends the turn."""
    text = getattr(pair, name)
    reward, shaped, sample = (getattr(pair, f"{name}_{what}") for what in ("reward", "shaped", "sample"))
    side = {"sample": sample, "chars": len(text), "reward": round(reward, 3), "shaped": round(shaped, 3)}
    found = known.get((pair.prompt_id, sample))
    if found is None or not found.tokens:
        return side | {"of_text": 1, "tokens": [visible(clipped(text, LONGEST))]}
    pieces, rewards, length, of_text = [], [], 0, 0
    for piece, value in _whole(found):
        of_text += length < len(text)
        if length > LONGEST:
            pieces.append(" … [the rest is left out]")
            break
        pieces.append(visible(piece))
        rewards.append(round(value, 2))
        length += len(piece)
    return side | {"of_text": of_text, "tokens": pieces, "rewards": rewards}


def _whole(found: TokenRewards) -> Iterator[tuple[str, float]]:
    """Tokens and their rewards; those that make up one character together count as one."""
    pending = 0.0
    for piece, value in zip(found.tokens, found.token_rewards, strict=True):
        pending += value
        if piece:
            yield piece, pending
            pending = 0.0
