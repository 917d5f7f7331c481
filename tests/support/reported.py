"""Runs to report on, written by hand: what their figures must be is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import fake_world

from dice.run import files
from dice.run.rows import Judged, Prompt, Response, Score, prompt_id
from dice.run.run import Run
from dice.stages import evaluate, pair
from dice.stages.order import STAGES, execute

VERSIONS = {"python": "3.11.7", "torch": "2.13.0"}
MEASURED = {"seconds": 12.0, "versions": VERSIONS, "commit": "c0ffee"}
CURVES = (
    '{"step": 10, "loss": 0.7, "rewards/accuracies": 0.5, "rewards/chosen": 0.0, "rewards/rejected": 0.0, '
    '"rewards/margins": 0.0}\n'
    '{"step": 20, "loss": 0.6, "rewards/accuracies": 0.75, "rewards/chosen": 0.1, "rewards/rejected": -0.2, '
    '"rewards/margins": 0.3}\n'
    '{"step": 20, "eval_loss": 0.65, "eval_rewards/accuracies": 0.7}\n'
)


def write_samples(run: Run, t: int, table: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """A sampled and scored round: {prompt: (response, reward) of each sample}."""
    folder = run.round_dir(t)
    prompts, responses, scores = [], [], []
    for text, samples in table.items():
        messages = [{"role": "user", "content": text}]
        prompts.append(Prompt(prompt_id(messages), messages))
        for sample, (response, reward) in enumerate(samples):
            key, size = (prompts[-1].prompt_id, sample), len(response)
            responses.append(Response(*key, response, size, size + 1, "stop", 0))
            scores.append(Score(*key, "", size, size + 1, reward - 9, -9.0, reward))
    files.write_rows(folder / "prompts.jsonl", prompts)
    files.write_rows(files.shard_path(folder / "responses", 0), responses)
    files.write_rows(files.shard_path(folder / "scores", 0), scores)
    count, mean = len(scores), sum(score.reward for score in scores) / len(scores)
    write_manifest(
        run, t, "generate", len(prompts), count + 2, {"prompts too long for the model": 0}, cut_off=1
    )
    write_manifest(run, t, "score", count + 2, count, {"under 4 characters": 2}, mean_reward=mean)


def write_pairs(run: Run, t: int) -> None:
    """The pairs of a sampled round, at alpha 0 and without replay, by the stage itself."""
    recipe = run.recipe
    recipe.replay.gamma, recipe.pair.alpha, recipe.pair.min_samples = 0.0, 0, 2
    execute(pair.STAGE, run, t)


def write_training(run: Run, t: int) -> None:
    """A trained round with curves."""
    files.write_text(run.round_dir(t) / "curves.jsonl", CURVES)
    write_manifest(run, t, "train", 5, 5, {})


def write_evaluation(run: Run, *rounds: tuple[float, float, float, float]) -> None:
    """Judged models: (quality, win rate, its error, mean characters) of each round's."""
    results = [_result("SFT", 0.4, 0.3, 0.01, 90.0), _result("DPO", 0.5, None, None, 100.0)]
    results += [_result(f"round-{t}", *row) for t, row in enumerate(rounds, 1)]
    folder = evaluate.STAGE.folder(run, 0)
    fake_world.write_manifest(folder, "evaluate", rows_in=400, rows_out=1600, results=results, **MEASURED)


def write_answers(run: Run, table: Mapping[str, Mapping[str, Sequence[tuple[str, float]]]]) -> None:
    """What an evaluation leaves: {prompt: {model: (answer, quality) of each sample}}."""
    folder = evaluate.STAGE.folder(run, 0)
    asked = [[{"role": "user", "content": text}] for text in table]
    prompts = [Prompt(prompt_id(messages), messages) for messages in asked]
    files.write_rows(folder / "prompts.jsonl", prompts)
    for model in next(iter(table.values())):
        found = [
            ((prompt.prompt_id, sample), text, quality)
            for prompt, models in zip(prompts, table.values(), strict=True)
            for sample, (text, quality) in enumerate(models[model])
        ]
        responses = [Response(*key, text, len(text), len(text) + 1, "stop", 0) for key, text, _ in found]
        files.write_rows(files.shard_path(folder / "responses" / model, 0), responses)
        judged = [Judged(*key, quality) for key, _, quality in found]
        files.write_rows(folder / "quality" / f"{model}.jsonl", judged)


def _result(
    model: str, quality: float, rate: float | None, error: float | None, chars: float
) -> dict[str, Any]:
    return dict(model=model, quality=quality, win_rate=rate, win_rate_error=error, mean_chars=chars)


def write_manifest(
    run: Run, t: int, stage: str, rows_in: int, rows_out: int, dropped: dict[str, int], **more: Any
) -> None:
    """A stage's manifest, as far as a report reads it."""
    counts = {"rows_in": rows_in, "rows_out": rows_out, "dropped": dropped, "summary": "some"}
    basis = {"inputs": {"policy": "ab" * 32}, "recipe": STAGES[stage].settings(run, t)}
    fake_world.write_manifest(run.round_dir(t), stage, round=t, **basis, **counts, **(MEASURED | more))


TABLE = {
    "first": [("aaaa", 1.0), ("bbbbbb", 3.0), ("cc", -2.0)],
    "second": [("dddd", 0.5), ("ee", 2.5), ("ffffff", -0.5)],
}


def write_round(run: Run, t: int = 1) -> None:
    """A finished round of the samples of `TABLE`."""
    write_samples(run, t, TABLE)
    write_pairs(run, t)
    write_training(run, t)
