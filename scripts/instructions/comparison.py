"""A model's figures on held-out prompts, against those of the model that the rounds started from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dice.stages.evaluate import win_rate
from quality import quality
from topics import words


@dataclass(frozen=True)
class Judgement:
    """One model's answers to the held-out prompts."""

    model: str
    quality: float  # mean over answers, 0 to 1
    quality_error: float  # standard error, of the mean over prompts
    win_rate: float | None  # against the baseline, 0 to 1, ties half; None for the baseline itself
    win_rate_error: float | None
    mean_chars: float  # of an answer
    distinct_words: int  # different ones in all its answers together


def compare(answers: Mapping[str, Mapping[str, Sequence[str]]], baseline: str) -> list[Judgement]:
    """Every model's figures from its answers by prompt: the same prompts for all, as many answers to each."""
    prompts = list(answers[baseline])
    qualities = {
        model: np.array([[quality(prompt, answer) for answer in by_prompt[prompt]] for prompt in prompts])
        for model, by_prompt in answers.items()
    }
    return [
        _judgement(model, [answer for said in by_prompt.values() for answer in said], qualities[model], rate)
        for model, by_prompt in answers.items()
        for rate in [None if model == baseline else win_rate(qualities[model], qualities[baseline])]
    ]


def _judgement(
    model: str, said: Sequence[str], qualities: np.ndarray, rate: tuple[float, float] | None
) -> Judgement:
    by_prompt = qualities.mean(1)
    error = by_prompt.std(ddof=1) / len(by_prompt) ** 0.5 if len(by_prompt) > 1 else float("nan")
    chars, distinct = float(np.mean([*map(len, said)])), len({word for text in said for word in words(text)})
    return Judgement(model, float(by_prompt.mean()), float(error), *(rate or (None, None)), chars, distinct)
