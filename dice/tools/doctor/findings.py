"""What the doctor finds, and what it finds it in."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import BadInput, Unmade
from dice.launch import hardware
from dice.models import chat_template
from dice.models.checkpoint import NotHere, check_model
from dice.models.encoding import Chat
from dice.recipe.keys import Recipe
from dice.run.rows import Message, Preference
from dice.stages.checks import ROLES, Check
from dice.tools.plan.budget import Budget, budget
from dice.tools.plan.sizes import Size, size_of
from dice.tools.plan.workload import rows_here

FAULT, WARNING, FINE, OPEN = "fault", "warning", "fine", "open"
ROWS = 32  # of the real data that are looked at closely


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Faults and warnings say what to do; open ones, why nobody knows."""

    level: str  # fault, warning, fine, open
    topic: str
    what: str
    advice: str = ""
    refused: bool = False  # a fault that keeps a run from starting


Findings = Iterator[Finding]
Look = tuple[str, Callable[[], Findings]]  # topic, and what looks at it


@dataclass(frozen=True)
class Case:
    """A recipe and what belongs to it, as far as it is on this machine."""

    recipe: Recipe
    later: dict[str, str]  # what `prepare` is still to make, by topic

    @property
    def is_stand_in(self) -> bool:
        """Whether the recipe's policy is its reference, since the real one is still to be made."""
        return "policy" in self.later and self.recipe.policy == self.recipe.reference

    @cached_property
    def budget(self) -> Budget:
        """Raises BadInput where data that is here can't be read."""
        return budget(self.recipe, hardware.find())

    @cached_property
    def sizes(self) -> dict[str, Size | None]:
        """How large policy and reference are; None where nothing tells."""
        return {role: size_of(getattr(self.recipe, role)) for role in ROLES}

    @cached_property
    def chat(self) -> Chat | None:
        """The policy's tokenizer with the template; None where they are not here or do not go together."""
        home = self.home("policy")
        try:
            return chat_template.load_chat(home, **self.recipe.encoding) if home else None
        except Exception:  # whatever it is, the quick part told of it
            return None

    def home(self, role: str) -> str | None:
        """The folder of a complete model on this machine; None where there is none."""
        if role in self.later and not self.is_stand_in:
            return None
        try:
            folder = check_model(role, getattr(self.recipe, role))
        except BadInput:
            return None
        return str(folder) if folder else None

    @cached_property
    def prompts(self) -> list[list[Message]]:
        """All prompts of the recipe; none where they are not here or can't be read."""
        names = self.recipe.prompt_sets
        return [row.messages for name in names for row in self._rows(read_prompts, name)]

    @cached_property
    def replayed(self) -> list[Preference]:
        """All offline pairs of the recipe; none where they are not here or can't be read."""
        replay = self.recipe.replay
        return self._rows(read_preferences, replay.dataset if replay.gamma > 0 else None)

    @property
    def offline(self) -> list[Preference]:
        """Some of the replayed pairs, spread over the data."""
        return spread(self.replayed)

    @cached_property
    def conversations(self) -> list[list[Message]]:
        """Every prompt that a model reads: prompts, those of offline pairs, and held-out ones."""
        held_out = self._rows(read_prompts, self.recipe.evaluate.prompts)
        return [*self.prompts, *(row.messages for row in [*self.replayed, *held_out])]

    def _rows(self, read: Callable[[Path, str], tuple[list, Counter[str]]], name: str | None) -> list:
        with contextlib.suppress(BadInput):  # the quick part told of it
            return rows_here(self.recipe, read, name)
        return []

    @property
    def pairs(self) -> list[Preference]:
        """The offline pairs; without any, prompts with made-up answers, whose labels mean nothing."""
        if self.offline:
            return self.offline
        made_up = ("Yes, of course.\n\n1. This", "No.")
        return [Preference("", messages, *made_up) for messages in spread(self.prompts)]


def looks_at(case: Case, *checks: Callable[[Case], Finding]) -> Iterator[Look]:
    """Some checks of a case, to be made one by one, each under its own name."""
    for check in checks:
        yield check.__name__.replace("_", " "), lambda check=check: iter([check(case)])


def spread(rows: list) -> list:
    """Up to `ROWS` rows, evenly spread."""
    return rows[:: max(1, len(rows) // ROWS)][:ROWS]


def of_check(check: Check, later: dict[str, str], elsewhere: Callable[[str], str]) -> Finding:
    """What a quick check of a recipe finds.

    `later` is what `prepare` is still to make, by topic; `elsewhere` makes a sentence of why something that
    may be on the Hub is not here.
    """
    if check.topic in later:
        return Finding(OPEN, check.topic, f"{later[check.topic]}: not here yet, `prepare` makes it")
    try:
        told = check.examine()
        return Finding(OPEN if isinstance(told, Unmade) else FINE, check.topic, told)
    except NotHere as error:
        return Finding(OPEN, check.topic, elsewhere(error.reason))
    except BadInput as error:
        return Finding(FAULT, check.topic, str(error), check.advice, refused=True)
