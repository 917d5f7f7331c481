"""The annotator of the labelled pairs: sees the quality of a model's answers, but errs, and likes length.

To the annotator an answer is worth its quality plus LENGTH_BIAS for each factor e in its length. So where
qualities are equal the longer answer is preferred. Where they differ by 1/2 the better one is, unless the
other is e^2.5 = 12 times as long. Then a share NOISE of the labels is turned round.
"""

import math
import random
from collections.abc import Mapping, Sequence

from quality import quality

NOISE = 0.1  # share of the labels
TIES = 0.1  # share of the prompts with a pair of equal qualities, which length alone decides
LENGTH_BIAS = 0.2  # in units of quality, per factor e in characters


def label_pairs(
    samples: Mapping[str, Sequence[str]],
    seed: int,
    per_prompt: int = 4,
    noise: float = NOISE,
    ties: float = TIES,
) -> list[dict[str, str]]:
    """Labelled pairs of the answers to each prompt, as rows with instruction, chosen and rejected.

    A prompt has up to `per_prompt` pairs, and an answer is in one at most: the best is paired with the worst,
    the second best with the second worst, and so on, as long as their qualities differ. A share `ties` of the
    prompts that have such pairs have one more, of answers whose qualities are equal. A prompt's pairs depend
    on its answers, in whatever order, and on `seed`.
    """
    rows = []
    for prompt, answers in samples.items():
        rng = random.Random(f"{seed} {prompt}")
        pairs = _pairs({answer: quality(prompt, answer) for answer in answers if answer.strip()}, ties, rng)
        for pair in pairs[:per_prompt]:
            rejected, chosen = sorted(pair, key=lambda answer: worth(prompt, answer))
            if rng.random() < noise:
                chosen, rejected = rejected, chosen
            rows.append({"instruction": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def worth(prompt: str, answer: str) -> float:
    """What the annotator likes, before it errs."""
    return quality(prompt, answer) + LENGTH_BIAS * math.log(max(1, len(answer)))


def _pairs(qualities: Mapping[str, float], ties: float, rng: random.Random) -> list[tuple[str, str]]:
    """Disjoint pairs of answers: now and then one of equal qualities, then those whose qualities differ."""
    shuffled = rng.sample(sorted(qualities), len(qualities))  # so that chance orders equal ones
    ranked = sorted(shuffled, key=qualities.__getitem__, reverse=True)
    pairs = list(zip(ranked, reversed(ranked), strict=True))[: len(ranked) // 2]
    unequal = [(best, worst) for best, worst in pairs if qualities[best] > qualities[worst]]
    equal = pairs[len(unequal) :] if unequal and rng.random() < ties else []
    return equal[:1] + unequal
