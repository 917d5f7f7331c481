"""All samples of some prompts of a round, with their rewards."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dice.run import files
from dice.run.rows import Response, Score
from dice.tools.report.text import clipped, visible

LONGEST = 8000  # characters of all samples of a prompt that are shown


def samples(folder: Path, prompts: set[str], alpha: float, unit: str) -> dict[str, list[list[Any]]]:
    """The samples of each of the prompts, the highest shaped reward first.

    A sample is [its number, reward, shaped reward, characters, tokens, why it ended, text]; without a score
    its rewards are None. `folder` is the round's; alpha multiplies lengths in `unit`, chars or tokens.
    """
    shaped = {}
    for path in files.shards(folder / "scores"):
        for score in files.read_rows(path, Score):
            if score.prompt_id in prompts:
                length = score.n_chars if unit == "chars" else score.n_tokens
                rewards = (round(score.reward, 3), round(score.reward - alpha * length, 3))
                shaped[score.prompt_id, score.sample] = rewards
    found = defaultdict(list)
    for path in files.shards(folder / "responses"):
        for response in files.read_rows(path, Response):
            if response.prompt_id in prompts:
                found[response.prompt_id].append(response)
    return {prompt: _shown(responses, shaped) for prompt, responses in found.items()}


def _shown(
    responses: list[Response], shaped: Mapping[tuple[str, int], tuple[float, float]]
) -> list[list[Any]]:
    longest = LONGEST // len(responses)
    rows = []
    for r in responses:
        rewards = shaped.get((r.prompt_id, r.sample), (None, None))
        text = visible(clipped(r.response, longest))
        rows.append([r.sample, *rewards, r.n_chars, r.n_tokens, r.finish_reason, text])
    return sorted(rows, key=lambda row: (row[2] is None, -(row[2] or 0)))
