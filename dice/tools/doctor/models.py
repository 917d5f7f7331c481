"""The doctor on models: loaded and asked for the log-probs of a few answers of the real data."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dice.errors import BadInput
from dice.launch import devices
from dice.launch.devices import dtype_name
from dice.tools.doctor.findings import FAULT, FINE, OPEN, WARNING, Case, Finding, Findings, Look, looks_at

if TYPE_CHECKING:
    from dice.inference.scorer import Scorer

LARGEST_ON_CPU = 1_000_000_000  # parameters: more would take more than the promised minute
# How far a token's log-prob (in nats, times 1 + its size) may be from itself in another batch: rounding.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25, "float16": 0.05}
AGREEING = 0.35  # of labels: below it, 32 pairs are no chance (p < 0.06 for a reward that knows nothing)
RARELY = math.log(0.01)  # nats: an end of turn that is hardly ever sampled
BROKEN = "set dtype=bfloat16 or float32; if it stays so, the weights are broken"
SWAPPED = "policy is the model after DPO, reference the one before: are they swapped?"


def model_checks(case: Case) -> Iterator[Look]:
    """All of them; those of log-probs in one go, in which each model is loaded once."""
    yield from looks_at(case, dtype)
    yield "rewards", lambda: _model_checks(case)


def dtype(case: Case) -> Finding:
    """Which precision is it, and is it a fast one here?"""
    asked, used, auto = case.recipe.dtype, dtype_name(case.recipe.dtype), dtype_name("auto")
    if used not in ("float32", auto) and not devices.gpu_count():
        what = f"{used} on a CPU that has no instructions for it works, but more slowly than float32"
        return Finding(WARNING, "dtype", what, "set dtype=auto or dtype=float32")
    if asked != "auto":
        return Finding(FINE, "dtype", f"{used}, as asked")
    reasons = {"float32": "the CPU has no instructions for bfloat16", "bfloat16": "there is a GPU"}
    if not devices.gpu_count() and devices.cpu_has_bfloat16():
        reasons["bfloat16"] = "the CPU has instructions for it; rewards are rougher than in float32"
    return Finding(FINE, "dtype", f"auto is {used} here: {reasons[used]}")


def _model_checks(case: Case) -> Findings:
    if reason := _why_not(case):
        yield Finding(OPEN, "rewards", reason)
        return
    from dice.inference.scorer import Options, Scorer

    recipe = case.recipe
    score = recipe.score
    options = Options(recipe.dtype, score.attn_implementation, score.quantization_bit, score.batch_tokens)
    rows = _rows(case)
    try:
        scorer = Scorer(options)
        scorer.use(case.home("policy"))
        policy = scorer.token_logps(rows)
        yield same_again(policy, _apart(scorer, rows), dtype_name(recipe.dtype))
        yield ends(case, rows, policy)
        if score.reward != "implicit":
            yield Finding(OPEN, "rewards", f"{score.reward} rewards are computed by a run alone")
            return
        if case.is_stand_in:
            yield Finding(OPEN, "rewards", "not known before the policy is made")
            return
        scorer.use(case.home("reference"))
        reference = scorer.token_logps(rows)
    except BadInput as error:
        yield Finding(FAULT, "rewards", str(error), "take models that load whole, with their own tokenizer")
        return
    yield rewards(policy, reference, labelled=bool(case.offline))


def _why_not(case: Case) -> str | None:
    """Why the models are not loaded here, if they are not."""
    from dice.models.loading import device

    for role in ("policy", "reference"):
        size, name = case.sizes[role], getattr(case.recipe, role)
        if case.home(role) is None:
            return f"not computed: {name} is not complete on this machine"
        if device().type == "cpu" and size and size.parameters > LARGEST_ON_CPU:
            return f"not computed: {name} takes too long on a CPU; run the doctor where the GPUs are"
    if case.chat is None or not _rows(case):
        return "not computed: there are no texts that could be scored"
    return None


def _rows(case: Case) -> list[tuple[list[int], list[int]]]:
    """Chosen and rejected of every pair, as token ids; long ones are left out."""
    rows = []
    for pair in case.pairs:
        both = [case.chat.encode(pair.messages, text) for text in (pair.chosen, pair.rejected)]
        if max(len(prompt) + len(response) for prompt, response in both) <= case.recipe.score.cutoff_len:
            rows += both
    return rows


def _apart(scorer: "Scorer", rows: Sequence[tuple[list[int], list[int]]]) -> list[np.ndarray]:
    """Log-probs of the rows in other batches: chosen and rejected answers no longer side by side."""
    chosen, rejected = (scorer.token_logps(rows[side::2][::-1])[::-1] for side in (0, 1))
    return [logps for pair in zip(chosen, rejected, strict=True) for logps in pair]


def same_again(first: Sequence[np.ndarray], second: Sequence[np.ndarray], dtype: str) -> Finding:
    """Is the implicit reward of the policy against itself 0, whatever stands beside a row in its batch?"""
    topic, tolerance = "step 0", TOLERANCE[dtype]
    ours, theirs = np.concatenate(first), np.concatenate(second)
    if not np.isfinite(ours).all():
        what = f"{np.sum(~np.isfinite(ours)):,} of {len(ours):,} log-probs under the policy are no numbers"
        return Finding(FAULT, topic, what, BROKEN)
    apart = np.abs(ours - theirs)
    sums = max(abs(float(a.sum() - b.sum())) for a, b in zip(first, second, strict=True))
    what = f"policy against itself: rewards of at most {sums:.1e} nats, {apart.max():.1e} a token ({dtype})"
    if np.all(apart <= tolerance * (1 + np.abs(ours))):
        return Finding(FINE, topic, what)
    advice = "set score.attn_implementation=eager and dtype=float32; report it if that doesn't help"
    return Finding(FAULT, topic, f"{what}: more than rounding ({tolerance:g})", advice)


def ends(case: Case, rows: Sequence[tuple[list[int], list[int]]], logps: Sequence[np.ndarray]) -> Finding:
    """Does the policy end a turn with the template's token where a real answer ends?"""
    topic, stops = "endings", set(case.chat.stop_ids)
    last = []
    for (_, response), row in zip(rows, logps, strict=True):
        at = [index for index, token in enumerate(response) if token in stops]
        last += [float(row[at[-1]])] if at else []
    if not last:
        return Finding(OPEN, topic, "no answer ends with a token that sampling stops at")
    median = float(np.median(last))
    what = f"the policy ends real answers with probability {math.exp(median):.2g} (median of {len(last)})"
    if median >= RARELY:
        return Finding(FINE, topic, what)
    advice = "set template to the one that the policy was trained with, or responses may never end"
    return Finding(WARNING, topic, what, advice)


def rewards(policy: Sequence[np.ndarray], reference: Sequence[np.ndarray], labelled: bool) -> Finding:
    """Are implicit rewards of policy against reference numbers, not all 0, and not the wrong way round?"""
    topic = "rewards"
    found = np.array([float(a.sum() - b.sum()) for a, b in zip(policy, reference, strict=True)])
    if not np.isfinite(found).all():
        return Finding(FAULT, topic, "log-probs under the reference are no numbers", BROKEN)
    if not found.any():
        what = f"the implicit rewards of {len(found)} answers are all 0: policy and reference are one model"
        return Finding(
            FAULT, topic, what, "set reference to the model before DPO and policy to the one after"
        )
    what = f"{len(found)} answers of the data, {np.abs(found).mean():.2g} nats on average in size"
    if not labelled:
        return Finding(FINE, topic, what)
    agreeing = float(np.mean(found[::2] > found[1::2]))
    what += f"; chosen above rejected in {agreeing:.0%} of {len(found) // 2} pairs"
    return Finding(WARNING, topic, what, SWAPPED) if agreeing < AGREEING else Finding(FINE, topic, what)
