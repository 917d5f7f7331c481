"""The implicit reward of every token of the pairs that a report shows.

The loop keeps sums alone, so the responses are read once more, under the round's policy and reference.
What comes out is kept in the round's `report-tokens.json`, for as long as its pairs are the same.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from dice.errors import BadInput, StageFailed, first_line
from dice.launch.console import shown
from dice.run import files
from dice.run.digests import file_digest
from dice.run.lock import locked
from dice.run.rows import Pair, TokenRewards
from dice.run.run import Run
from dice.tools.score_file import score_all

Key = tuple[str, int]  # (prompt_id, sample)


class Kept(msgspec.Struct):
    """What `report-tokens.json` holds."""

    pairs: str  # digest of the pairs.jsonl that the rows belong to, and over how many rounds they are a mean
    rows: list[TokenRewards]


def token_rewards(
    run: Run, t: int, pairs: Sequence[Pair], compute: bool
) -> tuple[dict[Key, TokenRewards], str]:
    """The token rewards of the pairs' responses, as far as there are any, and why there are no others.

    Unless it is to `compute`, only what was kept is looked up: no model is loaded.
    """
    if run.recipe.score.reward != "implicit":
        return {}, "tokens are not shaded: only implicit rewards are sums over tokens"
    kept = run.round_dir(t) / "report-tokens.json"
    digest = file_digest(run.round_dir(t) / "pairs.jsonl")
    digest += f" / {n}" if (n := run.averaged(t)) > 1 else ""
    wanted = {key for pair in pairs for key in _keys(pair)}
    found = _read(kept, digest)
    if wanted <= found.keys():
        return found, ""
    if not compute:
        command = f"python -m dice report {shown(run.path)}"
        return found, f"`{command}` shades their tokens; it reads them under both models"
    try:
        with locked(run.path):  # a stage at work needs the memory that both models would take
            rows = _compute(run, t, pairs)
    except (BadInput, StageFailed) as error:
        return found, f"tokens are not shaded: {first_line(error)}"
    files.write_text(kept, msgspec.json.encode(Kept(digest, rows)).decode())
    return {(row.prompt_id, row.sample): row for row in rows}, ""


def _keys(pair: Pair) -> tuple[Key, Key]:
    return (pair.prompt_id, pair.chosen_sample), (pair.prompt_id, pair.rejected_sample)


def _read(path: Path, digest: str) -> dict[Key, TokenRewards]:
    """What was kept, if it is of these pairs."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=Kept)
    except (FileNotFoundError, msgspec.MsgspecError):
        return {}
    return {(row.prompt_id, row.sample): row for row in kept.rows} if kept.pairs == digest else {}


def _compute(run: Run, t: int, pairs: Sequence[Pair]) -> list[TokenRewards]:
    """A row per response, in the order of the pairs; with an empty list for one that can't be scored."""
    recipe = run.recipe.model_copy(update={"policy": run.policy(t), "reference": run.reference(t)})
    answered = [(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs]
    rows = []
    for pair, results in zip(pairs, score_all(recipe, answered, per_token=True), strict=True):
        for key, result in zip(_keys(pair), results, strict=True):
            found = result.tokens or TokenRewards(*key, [], [])
            rewards = [reward / run.averaged(t) for reward in found.token_rewards]
            rows.append(TokenRewards(*key, found.tokens, rewards))
    return rows
