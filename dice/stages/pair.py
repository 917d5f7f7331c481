"""Stage 1.3: scores -> length balance -> pairs -> mixture with offline pairs -> data sets.

Scores are held as numbers, (P, K) arrays with a row per prompt and a column per sample; texts pass by
shard by shard, from the responses into pairs.jsonl and from there into the data sets.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from dice.data import dataset_info
from dice.data.dataset_dir import write, write_trl
from dice.data.prompts_and_preferences import read_preferences
from dice.data.round import read_prompts, read_scores, read_texts
from dice.errors import BadInput, counted
from dice.pairing import health, length_balance, replay
from dice.pairing.selection import Choice, Picks, choose, told_apart
from dice.pairing.table import Sampled, Table
from dice.recipe.seeds import seed_of
from dice.run import files
from dice.run.digests import file_digest, folder_digest
from dice.run.rows import Pair, Preference, Step
from dice.run.run import Run
from dice.run.stage import Outcome, Stage
from dice.stages import generate


def _inputs(run: Run, t: int) -> dict[str, str]:
    folder, recipe = run.round_dir(t), run.recipe
    digests = {
        "prompts": file_digest(folder / "prompts.jsonl"),
        "responses": folder_digest(folder / "responses"),
        "scores": folder_digest(folder / "scores"),
    }
    if recipe.replay.gamma > 0:
        digests["offline pairs"] = dataset_info.digest(recipe.dataset_dir, recipe.replay.dataset)
    return digests


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    return {"seed": recipe.seed, **recipe.model_dump(include={"replay", "pair"})}


def _run(run: Run, t: int) -> Outcome:
    folder, recipe = run.round_dir(t), run.recipe
    ids = [prompt.prompt_id for prompt in read_prompts(folder / "prompts.jsonl")]
    table = read_scores(folder / "scores", ids, recipe.generate.samples)
    dropped, kept = _enough(run, t, table)
    told = _told_apart(run, t, table, kept, dropped)
    choice = choose(table, told, recipe.pair, seed_of(recipe.seed, t, "pair"))
    dropped.update(choice.dropped)
    curve = (side.tolist() for side in choice.balance.curve())
    files.write_rows(folder / "alpha.jsonl", map(Step, *curve))

    sampled, paired, margins = Sampled(), [], []  # filled as the texts pass by
    pairs = _pairs(run, t, table, choice, sampled, dropped)
    files.write_rows(folder / "pairs.jsonl", _noting(pairs, paired, margins))
    generated, offline = _mix(run, t, paired, dropped)
    _export(run, t, generated, offline)

    figures = choice.figures | {
        "margins": health.quantiles(np.array(margins)),
        "duplicate_share": sampled.duplicates / sampled.responses,
        "cut_off_share": sampled.cut_off / sampled.responses,
        "pairs": len(paired),
        "generated": len(generated),
        "offline": len(offline),
    }
    warnings = health.warnings(figures, len(kept), len(set(paired)), recipe.score.unit)
    if recipe.pair.alpha == "auto" and (note := health.unbalanced(choice.balance, recipe.pair.length)):
        warnings.insert(0, note)
    return Outcome(
        rows_in=int(table.present.sum()),
        rows_out=len(generated) + len(offline),
        summary=_summary(figures, recipe.pair.length),
        dropped=dict(dropped),
        figures=figures,
        notes=[health.line(figures, recipe.score.unit)],
        warnings=warnings,
    )


def _enough(run: Run, t: int, table: Table) -> tuple[Counter[str], np.ndarray]:
    """The rows of the prompts that have enough scored responses, and the others counted."""
    least = run.recipe.pair.min_samples
    kept = np.flatnonzero(table.present.sum(1) >= least)
    if not len(kept):
        raise BadInput(
            f"{run.round_dir(t) / 'scores'}: no prompt has {least} scored responses (pair.min_samples); "
            f"scored were {counted(table.present.sum(), 'response')} to "
            f"{counted(len(table.prompt_ids), 'prompt')}"
        )
    unanswered = generate.STAGE.manifest(run, t).dropped[generate.UNANSWERED]  # counted there already
    missing = len(table.prompt_ids) - len(kept) - unanswered
    return Counter({f"prompts with under {least} scored responses": missing}), kept


def _told_apart(run: Run, t: int, table: Table, kept: np.ndarray, dropped: Counter[str]) -> np.ndarray:
    """The rows of the prompts whose responses have different rewards, the others counted."""
    told = told_apart(table, kept)
    if not len(told):
        raise BadInput(
            f"{run.round_dir(t) / 'scores'}: all responses to a prompt have the same reward "
            f"({counted(len(kept), 'prompt')}), so none is better than another; score.reward must tell "
            "them apart"
        )
    dropped["prompts whose rewards are all equal"] = len(kept) - len(told)
    return told


def _pairs(
    run: Run, t: int, table: Table, choice: Choice, sampled: Sampled, dropped: Counter[str]
) -> Iterator[Pair]:
    """The pairs with their texts; what can't be told apart or can't be written is dropped."""
    folder, lengths = run.round_dir(t), table.lengths(run.recipe.pair.length)
    prompts = enumerate(read_prompts(folder / "prompts.jsonl"))
    at, prompt = next(prompts)
    for row, high, low, chosen, rejected in _texts(run, t, table, choice.picks, sampled):
        while at < row:
            at, prompt = next(prompts)
        if chosen == rejected:
            dropped["pairs with identical texts"] += 1
        elif not (_is_text(chosen) and _is_text(rejected)):
            dropped["pairs with half a character (an unpaired surrogate)"] += 1
        else:
            rewards, sizes = table.rewards[row, [high, low]], lengths[row, [high, low]]
            shaped = length_balance.shaped_rewards(rewards, sizes, choice.alpha).tolist()
            samples = (prompt.prompt_id, prompt.messages, chosen, rejected, high, low)
            yield Pair(*samples, *rewards.tolist(), *shaped)


def _texts(
    run: Run, t: int, table: Table, picks: Picks, sampled: Sampled
) -> Iterator[tuple[int, int, int, str, str]]:
    """(row, chosen sample, rejected sample, their texts), each as soon as both have passed by."""
    wanted = np.zeros(table.present.shape, bool)
    wanted[picks.rows, picks.chosen] = wanted[picks.rows, picks.rejected] = True
    texts: dict[tuple[int, int], str] = {}
    coming = zip(picks.rows.tolist(), picks.chosen.tolist(), picks.rejected.tolist(), strict=True)
    pair = next(coming, None)
    for found in read_texts(run.round_dir(t) / "responses", table, wanted, sampled):
        texts.update(found)
        while pair and (pair[0], pair[1]) in texts and (pair[0], pair[2]) in texts:
            row, high, low = pair
            yield row, high, low, texts.pop((row, high)), texts.pop((row, low))
            pair = next(coming, None)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _noting(pairs: Iterator[Pair], prompt_ids: list[str], margins: list[float]) -> Iterator[Pair]:
    """The pairs as they come, their prompts and margins noted."""
    for pair in pairs:
        prompt_ids.append(pair.prompt_id)
        margins.append(pair.chosen_shaped - pair.rejected_shaped)
        yield pair


def _mix(run: Run, t: int, paired: list[str], dropped: Counter[str]) -> tuple[list[int], list[Preference]]:
    """What the round trains on: indices of generated pairs, and offline pairs."""
    settings = run.recipe.replay
    offline: list[Preference] = []
    if settings.gamma > 0:
        offline, reasons = read_preferences(run.recipe.dataset_dir, settings.dataset)
        dropped.update({f"offline: {reason}": count for reason, count in reasons.items()})
    ids = [pair.prompt_id for pair in offline]
    generated, replayed = replay.mix(paired, ids, settings.gamma, seed_of(run.recipe.seed, t, "replay"))
    if not generated and not replayed:
        reasons = [f"{count:,} {reason}" for reason, count in dropped.items() if count]
        raise BadInput(
            f"{run.round_dir(t)}: nothing to train on: {len(paired):,} generated pairs and replay.gamma "
            f"{settings.gamma} leave none ({', '.join(reasons) or 'nothing was dropped'})"
        )
    return generated, [offline[index] for index in replayed]


def _export(run: Run, t: int, generated: list[int], offline: list[Preference]) -> None:
    folder = run.round_dir(t)

    def pairs() -> Iterator[Pair]:
        return files.read_rows(folder / "pairs.jsonl", Pair)

    drawn = set(generated)
    for writer in (write, write_trl) if run.recipe.pair.trl else (write,):
        mixed = chain((pair for index, pair in enumerate(pairs()) if index in drawn), offline)
        writer(folder / "dataset", pairs(), mixed)


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
    needs=lambda run, t: [("generate", t), ("score", t)],
)
