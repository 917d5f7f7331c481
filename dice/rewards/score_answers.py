"""Rewards of any answers to any prompts: of a file's, and of preference pairs beside a round.

The answers lie in a folder of their own, as those of a round do, and its workers score them.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dice.launch.processes import Launch
from dice.recipe.keys import LOOKING_BACK, Recipe
from dice.recipe.load import resolved_yaml
from dice.rewards import scoring
from dice.rewards.source import beside, responses_of
from dice.run import files
from dice.run.rows import Message, Preference, Prompt, Response, Score, TokenRewards, prompt_id
from dice.run.run import Run

SHARD = 1024  # responses: what workers share out
NO_PAIRS = {"min_chars": 0, "max_chars": 1 << 60, "min_confidence": 0.0}
# Of a run of a single round, and of answers that no engine has sampled.
ALONE = {**LOOKING_BACK, "policy_logps": "scorer"}


@dataclass(frozen=True)
class Result:
    """What became of a response; `score` is None where it was dropped, for `reason`."""

    score: Score | None
    reason: str | None
    tokens: TokenRewards | None


def elsewhere(run: Run, folder: Path, t: int = 1, **changes: Any) -> Run:
    """A run in `folder` of one round, 0, which has the policy and the reference of round t of `run`.

    Short and long responses are dropped in the loop for the sake of pairs; here they count. `changes` are
    other values of the group `score`.
    """
    recipe = run.recipe
    pair = recipe.pair.model_copy(update=NO_PAIRS)
    score = recipe.score.model_copy(update={"reward_model": run.reward_model(), **ALONE, **changes})
    if score.reward != "implicit":
        score.normalize = "none"
    others = {"gates": [], "train": recipe.train.model_copy(update={"smoothing": "none"})}
    models = {"policy": run.policy(t), "reference": run.reference(t)}
    return Run(folder, recipe.model_copy(update={"pair": pair, "score": score, **others, **models}))


def settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that these rewards depend on."""
    return {**recipe.encoding_settings(), "dtype": recipe.dtype, **scoring.settings(recipe)}


def launch(scratch: Run) -> Launch:
    """How a node takes part in it."""
    return scoring.workers_of(scratch, 0, part=scratch.path.name).launch()


def score_answers(
    scratch: Run,
    answered: Sequence[tuple[list[Message], list[str]]],
    per_token: bool = False,
) -> list[list[Result]]:
    """The rewards of some responses to each of some prompts, in their order; `elsewhere` makes `scratch`.

    What was scored before in the same folder is not scored again. Raises BadInput where models or texts
    can't be used, StageFailed where a worker broke.
    """
    files.write_text(scratch.path / "recipe.yaml", resolved_yaml(scratch.recipe))
    _write(scratch.round_dir(0), answered)
    scoring.score_round(scratch, 0, per_token, part=scratch.path.name)
    tokens = {(row.prompt_id, row.sample): row for row in _token_rewards(scratch)}
    rows = (
        Result(row, None, tokens.get((row.prompt_id, row.sample)))
        if isinstance(row, Score)
        else Result(None, row.reason, None)
        for row in scoring.scored(scratch, 0)
    )
    return [[next(rows) for _ in texts] for _, texts in answered]


def margins(scratch: Run, pairs: Sequence[Preference]) -> np.ndarray:
    """Reward of chosen minus reward of rejected, (N,); NaN where one of them can't be scored."""
    results = score_answers(scratch, [(pair.messages, [pair.chosen, pair.rejected]) for pair in pairs])
    rewards = [[result.score.reward if result.score else np.nan for result in row] for row in results]
    return np.array(rewards).reshape(-1, 2) @ [1.0, -1.0]


def _write(folder: Path, answered: Sequence[tuple[list[Message], list[str]]]) -> None:
    """Write prompts and shards of responses, in their order."""
    prompts: dict[str, Prompt] = {}
    responses: list[Response] = []
    samples: Counter[str] = Counter()
    for messages, texts in answered:
        name = prompt_id(messages)
        prompts[name] = Prompt(name, messages)
        for text in texts:
            responses.append(Response(name, samples[name], text, len(text), 0, "stop", 0))
            samples[name] += 1
    files.write_rows(folder / "prompts.jsonl", prompts.values())
    for shard, start in enumerate(range(0, len(responses), SHARD)):
        files.write_rows(files.shard_path(folder / "responses", shard), responses[start : start + SHARD])


def _token_rewards(run: Run) -> Iterator[TokenRewards]:
    for shard in responses_of(run, 0):
        if (path := beside(shard, "tokens")).exists():
            yield from files.read_rows(path, TokenRewards)
