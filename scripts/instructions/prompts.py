"""The prompts: a task on a topic, then one constraint or two, each a sentence.

What a prompt asks for can be read off its text, so the judge needs nothing beside it.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from constraints import KINDS, Constraint
from dice.errors import BadInput
from topics import TOPICS, split

TASKS = (
    "Tell me about {}.",
    "Write about {}.",
    "What should I know about {}?",
    "Say something about {}.",
    "Share some thoughts on {}.",
    "I would like to learn about {}.",
    "Give me some information on {}.",
    "What is interesting about {}?",
)
# The share of the topics that each set has to itself.
SHARES = {"pairs": 0.45, "prompts": 0.3, "held_out": 0.17, "held_out_pairs": 0.08}

_TOPIC_OF = {task.format(topic): topic for task in TASKS for topic in TOPICS}
_CONSTRAINT_OF = {
    sentence: constraint
    for kind in KINDS.values()
    for constraint in (Constraint(kind, value) for value in kind.values)
    for sentence in constraint.asked()
}


@dataclass(frozen=True)
class Request:
    """What a prompt asks for."""

    topic: str
    constraints: tuple[Constraint, ...]


def read(prompt: str) -> Request | None:
    """What a prompt asks for; None where it is not of this world."""
    task, *sentences = re.split(r"(?<=[.?]) ", prompt)
    topic, constraints = _TOPIC_OF.get(task), tuple(map(_CONSTRAINT_OF.get, sentences))
    return Request(topic, constraints) if topic and constraints and all(constraints) else None


def write(
    topics: Sequence[str], count: int, kinds: Sequence[str], two: float, rng: random.Random
) -> list[str]:
    """`count` different prompts, with topics and kinds of constraints used as evenly as can be.

    A share `two` of them has a second constraint, of a kind that goes with the first. Raises BadInput for
    more prompts than there are topics times kinds, or a kind that there isn't.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise BadInput(f"there is no kind of constraints {unknown[0]!r}; there are {', '.join(KINDS)}")
    if count > len(topics) * len(kinds):
        most = f"{len(topics)} topics and {len(kinds)} kinds of constraints"
        raise BadInput(f"{count} prompts can't be made of {most}; at most {len(topics) * len(kinds)}")
    prompts = []
    for i in range(count):
        turn, place = divmod(i, len(topics))
        first = KINDS[kinds[(turn + place) % len(kinds)]]
        others = [KINDS[name] for name in kinds if first.goes_with(KINDS[name])]
        second = [rng.choice(others)] if others and rng.random() < two else []
        sentences = [rng.choice(TASKS).format(topics[place])]
        sentences += [
            rng.choice(Constraint(kind, rng.choice(kind.values)).asked()) for kind in [first, *second]
        ]
        prompts.append(" ".join(sentences))
    return prompts


def make_data(
    seed: int,
    sizes: Mapping[str, int],
    kinds: Sequence[str] = tuple(KINDS),
    two: float = 0.2,
    topics: Sequence[str] = TOPICS,
) -> dict[str, list[dict[str, str]]]:
    """Prompts as rows `{"instruction": prompt}`, as many of each set of SHARES as `sizes` says.

    No two sets share a topic, and which topics a set has depends on `seed` and `topics` alone.
    """
    sets = split(topics, SHARES, seed)
    return {
        name: [
            {"instruction": prompt}
            for prompt in write(sets[name], count, kinds, two, random.Random(f"{seed} {name}"))
        ]
        for name, count in sizes.items()
    }
