"""The tables of a report: rounds at a glance, time, versions. The template makes the simpler ones itself."""

from collections.abc import Callable
from typing import Any

import numpy as np

from dice.run.stage import STAGES
from dice.tools.report.collect import Collected, Round, StageRecord
from dice.tools.report.figures import UNITS
from dice.tools.report.text import duration, minus

NOTHING = "–"


def glance(collected: Collected) -> dict[str, list[str]]:
    """Figures by name, a value for each round; a dash is what a round has not come to yet."""
    unit = next((UNITS[r.scored.unit] for r in collected.rounds if r.scored), "characters")
    figures = _figures(unit, collected.rounds[0].reward_unit)
    lines = {label: [minus(value(r)) for r in collected.rounds] for label, value in figures.items()}
    return {label: values for label, values in lines.items() if {*values} != {NOTHING}}


def _manifest(stage: str, words: Callable[[dict[str, Any]], str]) -> Callable[[Round], str]:
    """A figure out of a stage's manifest, or a dash where there is none."""

    def value(done: Round) -> str:
        try:
            return words(done.manifest(stage))
        except KeyError:  # not done, or of a version that did not write it
            return NOTHING

    return value


def _mean_length(done: Round) -> str:
    if done.scored is None or not len(done.scored.lengths):
        return NOTHING
    return f"{np.mean(done.scored.lengths):,.1f}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else NOTHING


def _difference(pair: dict[str, Any]) -> str:
    before, after = pair["length_difference_without_shaping"], pair["length_difference"]
    return f"{before:+z.1f} → {after:+z.1f}"


def _correlation(pair: dict[str, Any]) -> str:
    both = (pair["correlation_without_shaping"], pair["correlation"])
    return " → ".join("none" if value is None else f"{value:+z.2f}" for value in both)


def _margins(pair: dict[str, Any]) -> str:
    if not (margins := pair["margins"]):
        return NOTHING
    return f"{margins['50%']:.2f} ({margins['5%']:.2f} to {margins['95%']:.2f})"


def _last(key: str, form: str) -> Callable[[Round], str]:
    def value(done: Round) -> str:
        found = [entry[key] for entry in done.curves if key in entry]
        return form.format(found[-1]) if found else NOTHING

    return value


def _seconds(record: StageRecord) -> float:
    return record.manifest["seconds"] if record.manifest else 0.0


def _time(done: Round) -> str:
    return duration(sum(map(_seconds, done.stages.values())))


def _figures(unit: str, reward_unit: str) -> dict[str, Callable[[Round], str]]:
    """What each line is called and how a round comes by it; lengths are in `unit`."""
    per = f"{reward_unit} per {unit.removesuffix('s')}"
    return {
        "Responses sampled": _manifest("generate", lambda m: f"{m['rows_out']:,}"),
        "… cut off at the length limit": _manifest("generate", lambda m: _share(m["cut_off"], m["rows_out"])),
        "… repeating another one": _manifest("pair", lambda m: f"{m['duplicate_share']:.1%}"),
        f"Mean length, {unit}": _mean_length,
        f"Mean reward, {reward_unit}": _manifest("score", lambda m: f"{m['mean_reward']:+z.2f}"),
        f"Alpha, {per}": _manifest("pair", lambda m: f"{m['alpha']:.4g}"),
        f"Chosen longer by, {unit}": _manifest("pair", _difference),
        "Correlation of reward and length": _manifest("pair", _correlation),
        f"Median margin (5% to 95%), {reward_unit}": _manifest("pair", _margins),
        "Pairs: generated + offline": _manifest("pair", lambda m: f"{m['generated']:,} + {m['offline']:,}"),
        "Training loss at the end": _last("loss", "{:.3f}"),
        "Training accuracy at the end": _last("rewards/accuracies", "{:.0%}"),
        "Time": _time,
    }


def times(collected: Collected) -> dict[str, list[tuple[str, float]]]:
    """How long each stage took in every round: in words, and as a share of the longest, 0 to 1.

    A star marks the time of a last attempt alone.
    """
    longest = max(_seconds(record) for r in collected.rounds for record in r.stages.values()) or 1.0
    return {name: [_cell(r.stages[name], longest) for r in collected.rounds] for name in STAGES}


def _cell(record: StageRecord, longest: float) -> tuple[str, float]:
    if not record.manifest:
        return NOTHING, 0.0
    seconds = _seconds(record)
    return duration(seconds) + "*" * ("resumed" in record.manifest), seconds / longest


def versions(collected: Collected) -> dict[str, list[str]]:
    """The versions of every package that stages ran with; more than one where they changed in between."""
    found: dict[str, dict[str, None]] = {}
    for _, record in collected.finished:
        for package, version in record.manifest.get("versions", {}).items():
            found.setdefault(package, {})[version] = None
    return {package: [*seen] for package, seen in found.items()}
