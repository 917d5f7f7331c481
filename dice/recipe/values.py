"""The types of a recipe's values: how YAML's are read, and what is refused.

YAML and `key=value` may give a number as text, "3", or a text that looks like a number, `run=2026`: both are
converted. No other type is: `rounds: true` and `seed: 1.5` are refused.
"""

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, Strict

from dice.errors import SECRET_KEY


def require(holds: object, key: str, reason: str) -> None:
    """Raises ValueError(key, reason) where a rule does not hold; pydantic collects it.

    `key` is the one at fault, in dot notation below the key or group that is being checked; `reason` is
    the rest of the sentence that begins with the key.
    """
    if not holds:
        raise ValueError(key, reason)


def inside(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a mapping or list, at any depth."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        dotted = f"{key}.{name}" if key else f"{name}"
        yield dotted, inner
        yield from inside(inner, dotted)


def literal(value: Any) -> Any:
    """A value with every `${` in it escaped, which OmegaConf would take for an interpolation."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: literal(inner) for key, inner in value.items()}
    return [*map(literal, value)] if isinstance(value, list) else value


def read_as(kind: type, *others: type) -> BeforeValidator:
    """A value of another type is converted where that can be done; where not, it is refused as it is."""

    def convert(value: Any) -> Any:
        with contextlib.suppress(ValueError):
            return kind(value) if isinstance(value, others) else value
        return value

    return BeforeValidator(convert)


def as_list(value: Any) -> Any:
    """A name as a list of one; `none` and null, as LLaMA-Factory reads them, as a list of nothing."""
    return [] if value in (None, "none", ["none"]) else [value] if isinstance(value, str) else value


def _passed_on(args: dict[Any, Any]) -> dict[str, Any]:
    """Refuses what JSON has no word for, and secrets."""
    for key, value in [("", args), *inside(args)]:
        for name in value if isinstance(value, dict) else ():
            require(isinstance(name, str), key, f"has the key {name!r}; a key must be text, in quotes")
        is_plain = isinstance(value, int | str | dict | list | None)
        is_plain = is_plain or (isinstance(value, float) and math.isfinite(value))
        require(is_plain, key, f"is {value!r:.80}; it must be text, a finite number, true, false or null")
        is_secret = SECRET_KEY.search(key)
        reason = "is a token or password, which would be written down; set it in the environment"
        require(not is_secret, key, reason)
    return args


Text = Annotated[str, Strict(), read_as(str, int, float)]
Whole = Annotated[int, Strict(), read_as(int, str)]
Real = Annotated[float, Strict(), read_as(float, str)]
Count = Annotated[Whole, Field(ge=1)]
# A whole number stays one, as manifests record it; one that is beyond a float's precision becomes a float.
Number = Annotated[int, Strict(), Field(ge=-(2**53), le=2**53)] | Annotated[float, Strict()]
PassedOn = Annotated[dict, AfterValidator(_passed_on)]  # arguments of another program, as they are
