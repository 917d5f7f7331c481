"""Stage 1.3: scores -> length balance -> best/worst pairs -> mixture with offline pairs.

Scores are held as numbers, (P, K) arrays with a row per prompt and a column per sample; texts are
read only for the responses that were chosen.
"""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dice import export, registry, replay, shaping, sources, store
from dice.errors import BadInput
from dice.generate import UNANSWERED, seed_of
from dice.recipe import Pair as Settings
from dice.schema import Pair, Preference, Prompt, Response, Score
from dice.stage import Outcome, Stage, manifest_of, require
from dice.store import Run


@dataclass(frozen=True)
class Scores:
    """The scores of a round: arrays (P, K) with a row per prompt, in the order of `prompt_ids`."""

    prompt_ids: list[str]
    rewards: np.ndarray  # nats; 0 where absent
    n_chars: np.ndarray
    n_tokens: np.ndarray
    present: np.ndarray  # whether the sample was scored

    def rows(self, keep: np.ndarray) -> "Scores":
        """The prompts of a boolean mask (P,)."""
        ids = [prompt for prompt, kept in zip(self.prompt_ids, keep, strict=True) if kept]
        return Scores(ids, *(a[keep] for a in (self.rewards, self.n_chars, self.n_tokens, self.present)))


def read_scores(folder: Path, prompt_ids: list[str], samples: int) -> Scores:
    """All scores of a round. Raises BadInput for one that is not finite, given twice, or of no prompt."""
    row_of = {prompt: row for row, prompt in enumerate(prompt_ids)}
    shape = (len(prompt_ids), samples)
    scores = Scores(
        prompt_ids, np.zeros(shape), np.zeros(shape, int), np.zeros(shape, int), np.zeros(shape, bool)
    )
    for path in store.shards(folder):
        for number, score in enumerate(store.read_rows(path, Score), 1):
            place = (row_of.get(score.prompt_id, -1), score.sample)
            if place[0] < 0 or not 0 <= score.sample < samples:
                raise BadInput(f"{path}:{number}: scores a response that was not sampled")
            if scores.present[place]:
                raise BadInput(f"{path}:{number}: sample {score.sample} of its prompt is scored twice")
            if not np.isfinite(score.reward):
                raise BadInput(f"{path}:{number}: reward is {score.reward}; it must be a finite number")
            scores.rewards[place], scores.present[place] = score.reward, True
            scores.n_chars[place], scores.n_tokens[place] = score.n_chars, score.n_tokens
    return scores


def choose(scores: Scores, settings: Settings) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Best and worst sample of each prompt (P,), shaped rewards (P, K), and the balance's figures."""
    lengths = scores.n_chars if settings.length == "chars" else scores.n_tokens
    alpha = settings.alpha
    if alpha == "auto":
        alpha, _ = shaping.balance(scores.rewards, lengths, scores.present).best()
    shaped = shaping.shaped_rewards(scores.rewards, lengths, alpha)
    best, worst = shaping.best_and_worst(shaped, scores.present)
    figures = {
        "alpha": alpha,
        "length_difference": _mean_difference(lengths, best, worst),
        "length_difference_without_shaping": _mean_difference(
            lengths, *shaping.best_and_worst(scores.rewards, scores.present)
        ),
    }
    return best, worst, shaped, figures


def _mean_difference(values: np.ndarray, best: np.ndarray, worst: np.ndarray) -> float:
    rows = np.arange(len(values))
    return float((values[rows, best] - values[rows, worst]).mean())


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder, recipe = run.round_dir(t), run.recipe
    require(run, t, "generate", "score")
    digests = {
        "prompts": store.file_digest(folder / "prompts.jsonl"),
        "responses": store.folder_digest(folder / "responses"),
        "scores": store.folder_digest(folder / "scores"),
    }
    if recipe.replay.gamma > 0:
        digests["offline pairs"] = registry.digest(recipe.dataset_dir, recipe.replay.dataset)
    return digests


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    return {"seed": recipe.seed, "replay": asdict(recipe.replay), "pair": asdict(recipe.pair)}


def _run(run: Run, t: int) -> Outcome:
    folder, recipe = run.round_dir(t), run.recipe
    prompts = {prompt.prompt_id: prompt for prompt in store.read_rows(folder / "prompts.jsonl", Prompt)}
    scores = read_scores(folder / "scores", list(prompts), recipe.generate.samples)
    scored = int(scores.present.sum())
    enough = scores.present.sum(1) >= recipe.pair.min_samples
    too_few = f"prompts with under {recipe.pair.min_samples} scored responses"
    unanswered = manifest_of(run, t, "generate")["dropped"][UNANSWERED]  # counted there already
    dropped = Counter({too_few: int((~enough).sum()) - unanswered})
    if not enough.any():
        raise BadInput(
            f"{folder / 'scores'}: no prompt has {recipe.pair.min_samples} scored responses "
            f"(pair.min_samples); {scored} responses of {len(prompts)} prompts were scored"
        )
    scores = scores.rows(enough)
    best, worst, shaped, figures = choose(scores, recipe.pair)
    pairs, identical = _pairs(folder, prompts, scores, best, worst, shaped)
    dropped.update(identical)
    mixed, replayed = _mix(run, t, pairs)
    dropped.update(replayed)
    if not mixed:
        reasons = [f"{count:,} {reason}" for reason, count in dropped.items() if count]
        raise BadInput(
            f"{folder}: nothing to train on: {len(pairs):,} generated pairs and replay.gamma "
            f"{recipe.replay.gamma} leave none ({', '.join(reasons) or 'nothing was dropped'})"
        )

    store.write_rows(folder / "pairs.jsonl", pairs)
    export.export(folder / "dataset", pairs, mixed)
    n_generated = sum(isinstance(pair, Pair) for pair in mixed)
    summary = (
        f"{len(pairs):,} pairs (alpha {figures['alpha']:.4g}: length difference "
        f"{figures['length_difference_without_shaping']:+z.1f} -> {figures['length_difference']:+z.1f} "
        f"{recipe.pair.length}), {n_generated:,} of them mixed with {len(mixed) - n_generated:,} offline"
    )
    return Outcome(
        rows_in=scored,
        rows_out=len(mixed),
        summary=summary,
        dropped=dict(dropped),
        figures=figures
        | {"pairs": len(pairs), "generated": n_generated, "offline": len(mixed) - n_generated},
    )


def _pairs(
    folder: Path,
    prompts: dict[str, Prompt],
    scores: Scores,
    best: np.ndarray,
    worst: np.ndarray,
    shaped: np.ndarray,
) -> tuple[list[Pair], Counter[str]]:
    """The pairs with their texts; identical texts and zero margins are dropped."""
    chosen = dict(zip(scores.prompt_ids, zip(best.tolist(), worst.tolist(), strict=True), strict=True))
    texts = _texts(folder / "responses", chosen)
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for row, (prompt, (high, low)) in enumerate(chosen.items()):
        if shaped[row, high] <= shaped[row, low]:
            dropped["prompts with a zero margin"] += 1
        elif texts[prompt, high] == texts[prompt, low]:
            dropped["prompts with identical texts"] += 1
        else:
            pairs.append(
                Pair(
                    prompt_id=prompt,
                    messages=prompts[prompt].messages,
                    chosen=texts[prompt, high],
                    rejected=texts[prompt, low],
                    chosen_sample=high,
                    rejected_sample=low,
                    chosen_reward=float(scores.rewards[row, high]),
                    rejected_reward=float(scores.rewards[row, low]),
                    chosen_shaped=float(shaped[row, high]),
                    rejected_shaped=float(shaped[row, low]),
                )
            )
    return pairs, dropped


def _texts(folder: Path, wanted: dict[str, tuple[int, int]]) -> dict[tuple[str, int], str]:
    """The texts of the wanted samples, by (prompt_id, sample)."""
    texts = {}
    for path in store.shards(folder):
        for response in store.read_rows(path, Response):
            if response.sample in wanted.get(response.prompt_id, ()):
                texts[response.prompt_id, response.sample] = response.response
    for prompt, samples in wanted.items():
        for sample in samples:
            if (prompt, sample) not in texts:
                raise BadInput(f"{folder}: sample {sample} of prompt {prompt} is scored but has no response")
    return texts


def _mix(run: Run, t: int, pairs: list[Pair]) -> tuple[list[Pair | Preference], Counter[str]]:
    """What the round trains on: generated pairs, then offline ones."""
    settings = run.recipe.replay
    offline: list[Preference] = []
    dropped: Counter[str] = Counter()
    if settings.gamma > 0:
        offline, reasons = sources.read_preferences(run.recipe.dataset_dir, settings.dataset)
        dropped.update({f"offline: {reason}": count for reason, count in reasons.items()})
    generated, replayed = replay.mix(
        [pair.prompt_id for pair in pairs],
        [pair.prompt_id for pair in offline],
        settings.gamma,
        seed_of(run.recipe.seed, t, "replay"),
    )
    return [*(pairs[index] for index in generated), *(offline[index] for index in replayed)], dropped


STAGE = Stage("pair", _inputs, _settings, ("pairs.jsonl", "dataset"), _run)
