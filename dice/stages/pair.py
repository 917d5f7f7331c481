"""Stage 1.3: scores -> length balance -> pairs -> mixture with offline pairs -> data sets.

Scores are arrays, (P, K), with a row per prompt and a column per sample. Of the responses' texts, only those
that are paired are held. Each file of the round is read once.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from dice.data import dataset_info
from dice.data.dataset_dir import SMOOTHING, write
from dice.data.prompts_and_preferences import read_preferences
from dice.data.round import Answers, read_answers, read_prompts, read_scores
from dice.errors import BadInput, counted
from dice.pairing import collapse, health, length_balance, replay
from dice.pairing.selection import Choice, choose, told_apart
from dice.pairing.table import Table
from dice.recipe.keys import Recipe
from dice.recipe.seeds import seed_of
from dice.rewards import score_answers, scoring
from dice.rewards.source import source_of
from dice.run import files
from dice.run.digests import file_digest, folder_digest
from dice.run.rows import Pair, Preference, Prompt, Smoothing, Step, pair_key
from dice.run.run import Run
from dice.run.stage import Outcome, Stage, makers
from dice.stages import generate

RANKED = "offline"  # the folder in which offline pairs get the margins that they are chosen by
UNCERTAIN = 0.1  # the share of pairs that `train.smoothing: confidence` smooths: those of the least margins
LOOKED_AT = 1000  # responses whose words are counted, the first one to each of as many prompts


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder, recipe = run.round_dir(t), run.recipe
    digests = {
        "prompts": file_digest(folder / "prompts.jsonl"),
        "responses": folder_digest(folder / "responses"),
        "scores": folder_digest(folder / "scores"),
    }
    if recipe.replay.gamma > 0:
        digests["offline pairs"] = dataset_info.digest(recipe.dataset_dir, recipe.replay.dataset)
    for one in _ranking(run, t):
        digests |= scoring.inputs(one, 0)
    return digests


def _ranking(run: Run, t: int) -> list[Run]:
    """Where offline pairs get the margins that they are chosen by; empty where any will do."""
    keys, folder = run.recipe.replay, run.round_dir(t) / RANKED
    is_wanted = keys.gamma > 0 and keys.select != "random"
    return [score_answers.elsewhere(run, folder, t, reward="implicit")] if is_wanted else []


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe.in_round(t)
    found = {"seed": recipe.seed, "replay": recipe.replay.settings(), "pair": recipe.pair.settings()}
    if recipe.pair.min_confidence or recipe.train.smoothing == "confidence":
        found["pref_beta"] = recipe.beta
    found |= recipe.train.said("smoothing")
    for one in _ranking(run, t):
        found["offline_scores"] = score_answers.settings(one.recipe)
    return found


def _run(run: Run, t: int) -> Outcome:
    folder, recipe = run.round_dir(t), run.recipe
    prompts = list(read_prompts(folder / "prompts.jsonl"))
    table = read_scores(folder / "scores", [prompt.prompt_id for prompt in prompts], recipe.generate.samples)
    kept = _with_enough_scores(run, t, table)
    told = _told_apart(run, t, table, kept)
    choice = choose(table, told, recipe.pair, seed_of(recipe.seed, t, "pair"), recipe.beta)
    files.write_rows(folder / "alpha.jsonl", map(Step, *(side.tolist() for side in choice.balance.curve())))

    wanted = np.zeros(table.present.shape, bool)
    for columns in (choice.picks.chosen, choice.picks.rejected):
        wanted[choice.picks.rows, columns] = True
    looked_at = np.unique(np.linspace(0, len(prompts) - 1, LOOKED_AT).round().astype(int))
    wanted[looked_at, 0] = True
    answers, sampled = read_answers(folder / "responses", table, wanted)
    pairs, unfit = _pairs(prompts, table, answers, choice, recipe.pair.length)
    offline, unread = _offline_pairs(recipe)
    dropped = _unpaired(run, t, table, kept, told) | choice.dropped | unfit | unread

    files.write_rows(folder / "pairs.jsonl", pairs)
    drawn, replayed = _mix(run, t, pairs, offline, dropped)
    write(folder / "dataset", pairs, [*drawn, *replayed], recipe.pair.trl)
    if recipe.train.smoothing == "confidence" or (
        recipe.train.smoothing == "consistency" and not np.isnan(table.reward_before).all()
    ):
        files.write_rows(folder / "dataset" / SMOOTHING, _smoothing(recipe, table, drawn))
    figures = choice.figures | {
        "margins": health.quantiles(np.array([pair.chosen_shaped - pair.rejected_shaped for pair in pairs])),
        "duplicate_share": sampled.duplicates / sampled.responses,
        "cut_off_share": sampled.cut_off / sampled.responses,
        **_collapse(table, choice, [answers[row, 0].text for row in looked_at if (row, 0) in answers]),
        "pairs": len(pairs),
        "generated": len(drawn),
        "offline": len(replayed),
    }
    return Outcome(
        rows_in=int(table.present.sum()),
        rows_out=len(drawn) + len(replayed),
        summary=_summary(figures, recipe.pair.length),
        dropped=dropped,
        figures=figures,
        notes=[health.line(figures, source_of(recipe).unit), health.collapse_line(figures)],
        warnings=_warnings(recipe, figures, choice, len(prompts), len({pair.prompt_id for pair in pairs})),
    )


def _collapse(table: Table, choice: Choice, texts: list[str]) -> dict[str, Any]:
    """What tells whether the loop collapses; figures that are not known are left out."""
    there, picks = table.present, choice.picks
    gone = (table.logp_policy - table.logp_ref)[there].sum() / max(table.n_tokens[there].sum(), 1)
    chosen = (table.logp_policy / np.maximum(table.n_tokens, 1))[picks.rows, picks.chosen]
    taus = collapse.taus(table.rewards, table.reward_before, there)
    known = taus[~np.isnan(taus)]
    spread = collapse.mean_and_deviation(table.rewards, there)[1][there.sum(1) > 1]
    found = {
        **collapse.distinct(texts),
        "reward_spread": spread.mean() if len(spread) else np.nan,
        "kl_per_token": gone,
        "chosen_logp": chosen.sum() / max(len(chosen), 1),
        "tau": known.mean() if len(known) else np.nan,
    }
    return {name: float(value) for name, value in found.items() if np.isfinite(value)}


def _smoothing(recipe: Recipe, table: Table, pairs: list[Pair]) -> Iterator[Smoothing]:
    """How likely each pair is to be ordered wrongly."""
    if recipe.train.smoothing == "confidence":  # DPO's model: sigma(beta * margin) is right
        margins = np.array([pair.chosen_shaped - pair.rejected_shaped for pair in pairs])
        uncertain = margins <= np.quantile(margins, UNCERTAIN) if pairs else margins
        wrong = np.where(uncertain, 1 / (1 + np.exp(recipe.beta * margins)), 0.0)
    else:
        taus = collapse.taus(table.rewards, table.reward_before, table.present)
        wrong = np.nan_to_num((1 - taus) / 2)[[table.row_of[pair.prompt_id] for pair in pairs]]
    for pair, share in zip(pairs, wrong.tolist(), strict=True):
        yield Smoothing(pair_key(pair.messages, pair.chosen, pair.rejected), share)


def _with_enough_scores(run: Run, t: int, table: Table) -> np.ndarray:
    """The rows of the prompts that have enough scored responses."""
    least = run.recipe.pair.min_samples
    kept = np.flatnonzero(table.present.sum(1) >= least)
    if not len(kept):
        raise BadInput(
            f"{run.round_dir(t) / 'scores'}: no prompt has {least} scored responses (pair.min_samples); "
            f"scored were {counted(table.present.sum(), 'response')} to "
            f"{counted(len(table.prompt_ids), 'prompt')}"
        )
    return kept


def _told_apart(run: Run, t: int, table: Table, kept: np.ndarray) -> np.ndarray:
    """Those of the rows whose responses have different rewards."""
    told = told_apart(table, kept)
    if not len(told):
        raise BadInput(
            f"{run.round_dir(t) / 'scores'}: all responses to a prompt have the same reward "
            f"({counted(len(kept), 'prompt')}), so none is better than another; score.reward must tell "
            "them apart"
        )
    return told


def _unpaired(run: Run, t: int, table: Table, kept: np.ndarray, told: np.ndarray) -> dict[str, int]:
    """Prompts that can't have a pair, by reason."""
    unanswered = generate.STAGE.manifest(run, t).dropped[generate.UNANSWERED]  # counted there already
    missing = len(table.prompt_ids) - len(kept) - unanswered
    return {
        f"prompts with under {run.recipe.pair.min_samples} scored responses": missing,
        "prompts whose rewards are all equal": len(kept) - len(told),
    }


def _pairs(
    prompts: list[Prompt], table: Table, answers: Answers, choice: Choice, length: str
) -> tuple[list[Pair], dict[str, int]]:
    """The pairs with their texts, and those that can't be told apart or can't be written, by reason."""
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    picks, lengths = choice.picks, table.lengths(length)
    for row, high, low in zip(*(x.tolist() for x in (picks.rows, picks.chosen, picks.rejected)), strict=True):
        (chosen, chosen_ids), (rejected, rejected_ids) = answers[row, high], answers[row, low]
        if chosen == rejected:
            dropped["pairs with identical texts"] += 1
        elif not (_is_text(chosen) and _is_text(rejected)):
            dropped["pairs with half a character (an unpaired surrogate)"] += 1
        else:
            rewards, sizes = table.rewards[row, [high, low]], lengths[row, [high, low]]
            shaped = length_balance.shaped_rewards(rewards, sizes, choice.alpha)
            texts = (prompts[row].prompt_id, prompts[row].messages, chosen, rejected)
            figures = (high, low, *rewards.tolist(), *shaped.tolist())
            pairs.append(Pair(*texts, *figures, chosen_ids, rejected_ids))
    return pairs, dict(dropped)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _offline_pairs(recipe: Recipe) -> tuple[list[Preference], dict[str, int]]:
    """The pairs to replay from, and the rows of their set that are none, by reason."""
    if recipe.replay.gamma == 0:
        return [], {}
    offline, reasons = read_preferences(recipe.dataset_dir, recipe.replay.dataset)
    return offline, {f"offline: {reason}": count for reason, count in reasons.items()}


def _mix(
    run: Run, t: int, pairs: list[Pair], offline: list[Preference], dropped: dict[str, int]
) -> tuple[list[Pair], list[Preference]]:
    """What the round trains on: those of the generated pairs and those of the offline ones."""
    gamma, seed = run.recipe.replay.gamma, seed_of(run.recipe.seed, t, "replay")
    sides = [pair.prompt_id for pair in pairs], [pair.prompt_id for pair in offline]
    margins = [margin for one in _ranking(run, t) for margin in score_answers.margins(one, offline).tolist()]
    drawn, replayed = replay.mix(*sides, gamma, seed, run.recipe.replay.select, margins)
    if not drawn and not replayed:
        reasons = [f"{count:,} {reason}" for reason, count in dropped.items() if count]
        raise BadInput(
            f"{run.round_dir(t)}: nothing to train on: {len(pairs):,} generated pairs and replay.gamma "
            f"{gamma} leave none ({', '.join(reasons) or 'nothing was dropped'})"
        )
    return [pairs[index] for index in drawn], [offline[index] for index in replayed]


def _warnings(
    recipe: Recipe, figures: dict[str, Any], choice: Choice, prompts: int, paired: int
) -> list[str]:
    found = health.warnings(figures, prompts, paired, recipe.is_in_nats)
    uneven = health.unbalanced(choice.balance, recipe.pair.length) if recipe.pair.alpha == "auto" else None
    return [uneven, *found] if uneven else found


def _summary(figures: dict[str, Any], unit: str) -> str:
    before, after = figures["length_difference_without_shaping"], figures["length_difference"]
    return (
        f"{figures['pairs']:,} pairs (alpha {figures['alpha']:.4g}: length difference {before:+z.1f} -> "
        f"{after:+z.1f} {unit}), {figures['generated']:,} of them mixed with {figures['offline']:,} offline"
    )


STAGE = Stage(
    "pair",
    _inputs,
    _settings,
    outputs=("pairs.jsonl", "dataset", "alpha.jsonl"),
    run=_run,
    working=(RANKED,),
    needs=lambda run, t: [("generate", t), ("score", t), *(makers(*run.ends(t)) if _ranking(run, t) else [])],
    given=lambda run, t: {"offline pairs": "replay.dataset"},
    launches=lambda run, t: [score_answers.launch(one) for one in _ranking(run, t)],
)
