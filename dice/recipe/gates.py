"""Gates: figures of a round that must keep within bounds, or the loop stops."""

import operator
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from dice.errors import BadInput

WARN = "warn"  # among the gates: a round that fails one is only warned of
USUAL = ("distinct_3 >= 0.5", "tau >= 0.1", "agreement >= 0.55")  # where gates are `warn` and nothing else
# Every figure, and what is normal: the sign and the number of a bound, and a word more. No sign: no bound.
NORMAL = {
    "distinct_1": (">", 0.5, ""),
    "distinct_2": (">", 0.8, ""),
    "distinct_3": (">", 0.9, ""),
    "distinct_4": (">", 0.9, ""),
    "repeating": ("<", 0.05, ""),
    "duplicate_share": ("<", 0.5, ""),
    "cut_off_share": ("<", 0.1, ""),
    "reward_spread": (">", 0.0, ", and not falling to it"),
    "kl_per_token": ("<", 0.2, " nats"),
    "chosen_logp": ("", 0.0, "not falling from round to round"),
    "tau": (">", 0.1, ""),
    "agreement": (">", 0.55, ""),
}
SIGNS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
GATE = re.compile(rf"\s*({'|'.join(NORMAL)})\s*(>=|<=|>|<)\s*([-+]?[0-9]*\.?[0-9]+)\s*")


class Gate(NamedTuple):
    """A figure that must keep within a bound."""

    figure: str
    sign: str
    bound: float


def normal(figure: str) -> str:
    """What is normal of a figure, in words."""
    sign, bound, more = NORMAL[figure]
    return f"{'above' if sign == '>' else 'below'} {bound:g}{more}" if sign else more


def is_normal(figure: str, value: float) -> bool:
    """Whether a value is within the figure's normal bound, if it has one."""
    sign, bound, _ = NORMAL[figure]
    return not sign or SIGNS[sign](value, bound)


def gates_of(recipe: Any) -> list[Gate]:
    """The gates of a recipe. Raises BadInput for what is none, and for a figure that its runs have not."""
    is_implicit, is_usual = recipe.score.reward == "implicit", recipe.gates in (WARN, [WARN])
    needed = {
        "kl_per_token": (is_implicit, "score.reward=implicit"),
        "chosen_logp": (is_implicit, "score.reward=implicit"),
        "tau": (recipe.score.consistency, "score.consistency=true"),
        "agreement": (recipe.evaluate.preferences, "evaluate.preferences"),
    }
    found = [_parse(text) for text in (USUAL if is_usual else recipe.gates) if text != WARN]
    for gate in [] if is_usual else found:
        there, need = needed.get(gate.figure, (True, ""))
        if not there:
            raise BadInput(f"has {gate.figure}, but no round has that figure; it needs {need}")
    return [gate for gate in found if needed.get(gate.figure, (True,))[0]]


def unknown(recipe: Any, t: int, figures: Mapping[str, Any]) -> list[str]:
    """The figures of the gates that the pairs of round t should tell, and do not."""
    later = {"agreement"} | ({"tau"} if t == 1 else set())
    return [gate.figure for gate in gates_of(recipe) if gate.figure not in {*figures, *later}]


def failures(recipe: Any, figures: Mapping[str, Any]) -> list[str]:
    """Which gates fail, in words; a figure that a round has none of (tau in round 1) fails no gate."""
    return [
        f"{gate.figure} is {value:.3g}, not {gate.sign} {gate.bound:g}"
        for gate in gates_of(recipe)
        if (value := figures.get(gate.figure)) is not None and not SIGNS[gate.sign](value, gate.bound)
    ]


def _parse(text: str) -> Gate:
    if not (found := GATE.fullmatch(text)):
        what = f"a gate is a figure, >= or <=, and a number; the figures are {', '.join(NORMAL)}"
        raise BadInput(f"has {text!r:.60}; {what}")
    return Gate(found[1], found[2], float(found[3]))
