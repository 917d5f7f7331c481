"""Did it work? The answer in sentences, from the figures alone."""

import math
from dataclasses import dataclass

from dice.stages.evaluate import Result
from dice.tools.report.collect import Collected

STANDARD_ERRORS = 2  # how far from 50% a win rate must be to count as a difference
LONGER = 0.2  # growth of the answers, as a share, that deserves a word


@dataclass(frozen=True)
class Verdict:
    """`mood` is good, bad, or open; `headline` is one sentence, `details` are more."""

    mood: str
    headline: str
    details: list[str]


def verdict(collected: Collected) -> Verdict:
    """What the run came to. Its latest judged round is compared with the policy that it started from."""
    rounds = [result for result in collected.results if result.model.startswith("round-")]
    start = next((result for result in collected.results if result.model == "DPO"), None)
    if not rounds or start is None:
        return Verdict("open", _not_judged(collected), _training(collected))
    last = rounds[-1]
    mood, headline = _compared(last, " so far" if collected.missing() else "")
    details = [_quality(last, start), *_length(last, start), *_best(rounds), *_training(collected)]
    return Verdict(mood, headline, details)


def name(model: str) -> str:
    """A model's name within a sentence."""
    return model.replace("-", " ") if model.startswith("round-") else model


def _compared(last: Result, so_far: str) -> tuple[str, str]:
    who, rate, error = name(last.model), last.win_rate, last.win_rate_error
    if not math.isfinite(error):
        return (
            "open",
            f"{who.capitalize()} wins {rate:.1%} against the starting policy, on too few prompts to know.",
        )
    wins = f"{rate:.1%} ± {error:.1%} against the policy it started from."
    if rate - STANDARD_ERRORS * error > 0.5:
        return "good", f"It worked{so_far}: {who} wins {wins}"
    if rate + STANDARD_ERRORS * error < 0.5:
        return "bad", f"It got worse{so_far}: {who} wins only {wins}"
    return "open", f"No clear difference{so_far}: {who} wins {wins}"


def _quality(last: Result, start: Result) -> str:
    return f"The judge's mean quality went from {start.quality:.3f} to {last.quality:.3f}."


def _length(last: Result, start: Result) -> list[str]:
    if not start.mean_chars:
        return []
    growth = last.mean_chars / start.mean_chars - 1
    sentence = f"Answers went from {start.mean_chars:.1f} to {last.mean_chars:.1f} characters ({growth:+.0%})"
    if growth > LONGER:
        return [f"{sentence}: part of the win may be length."]
    return [f"{sentence}{': much shorter than before' * (growth < -LONGER)}."]


def _best(rounds: list[Result]) -> list[str]:
    """A word on an earlier round that did better, by more than a standard error."""
    best, last = max(rounds, key=lambda result: result.win_rate), rounds[-1]
    if not best.win_rate - last.win_rate > last.win_rate_error:
        return []
    return [f"The latest round is not the best one: {name(best.model)} wins {best.win_rate:.1%}."]


def _not_judged(collected: Collected) -> str:
    if collected.evaluation is None:
        return "Not judged: this recipe has no judge, so whether the answers got better is not known."
    if collected.missing():
        return "Not known yet: the run is not finished, and no round's model has been judged."
    return "Not known: the evaluation judged no round's model."


def _training(collected: Collected) -> list[str]:
    """A word on trainings that went wrong."""
    found = []
    for done in collected.rounds:
        losses = [entry["loss"] for entry in done.curves if "loss" in entry]
        if any(not math.isfinite(loss) for loss in losses):
            found.append(f"The training loss of round {done.t} is not a finite number: that model is broken.")
    return found
