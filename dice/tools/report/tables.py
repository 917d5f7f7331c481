"""The tables of a report: rounds at a glance, time, versions. The template makes the simpler ones itself."""

from collections.abc import Callable

import numpy as np

from dice.errors import counted
from dice.recipe.gates import NORMAL, is_normal, normal
from dice.run.manifests import Manifest
from dice.stages.order import of_round
from dice.tools.report.collect import Collected, Round
from dice.tools.report.figures import UNITS
from dice.tools.report.text import duration, minus

NOTHING = "–"
ROWS = {  # what a stage takes in and gives out
    "generate": ("prompt", "response"),
    "score": ("response", "reward"),
    "pair": ("response", "pair"),
    "train": ("pair", "pair"),
    "agree": ("pair", "pair"),
}


def glance(collected: Collected) -> dict[str, list[str]]:
    """Figures by name, a value for each round; a dash is what a round has not come to yet."""
    unit = next((UNITS[r.scored.unit] for r in collected.rounds if r.scored), "characters")
    figures = _figures(unit, collected.rounds[0].reward_unit)
    lines = {label: [minus(value(r)) for r in collected.rounds] for label, value in figures.items()}
    return {label: values for label, values in lines.items() if {*values} != {NOTHING}}


def collapse(collected: Collected) -> dict[str, tuple[str, list[tuple[str, bool]]]]:
    """What tells a collapse: by figure what is normal, and each round's value and whether it is not that."""
    lines = {}
    for key in NORMAL:
        values = [_health(done, key) for done in collected.rounds]
        if {*values} != {None}:
            lines[key] = normal(key), [_beside_normal(key, value) for value in values]
    return lines


def _health(done: Round, key: str) -> float | None:
    found = [manifest.figures[key] for manifest in done.manifests if key in manifest.figures]
    return found[-1] if found else None


def _beside_normal(key: str, value: float | None) -> tuple[str, bool]:
    return (NOTHING, False) if value is None else (minus(f"{value:.3g}"), not is_normal(key, value))


def _manifest(stage: str, words: Callable[[Manifest], str]) -> Callable[[Round], str]:
    """A figure out of a stage's manifest, or a dash where there is none."""

    def value(done: Round) -> str:
        try:
            return words(found) if (found := done.manifest(stage)) else NOTHING
        except KeyError:  # of a version that did not write it
            return NOTHING

    return value


def _mean_length(done: Round) -> str:
    if done.scored is None or not len(done.scored.lengths):
        return NOTHING
    return f"{np.mean(done.scored.lengths):,.1f}"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else NOTHING


def _difference(pair: Manifest) -> str:
    before, after = (pair.figures[f"length_difference{which}"] for which in ("_without_shaping", ""))
    return f"{before:+z.1f} → {after:+z.1f}"


def _correlation(pair: Manifest) -> str:
    both = (pair.figures["correlation_without_shaping"], pair.figures["correlation"])
    return " → ".join("none" if value is None else f"{value:+z.2f}" for value in both)


def _margins(pair: Manifest) -> str:
    if not (margins := pair.figures["margins"]):
        return NOTHING
    return f"{margins['50%']:.2f} ({margins['5%']:.2f} to {margins['95%']:.2f})"


def _mixture(pair: Manifest) -> str:
    return f"{pair.figures['generated']:,} + {pair.figures['offline']:,}"


def _last(key: str, form: str) -> Callable[[Round], str]:
    def value(done: Round) -> str:
        found = [entry[key] for entry in done.curves if key in entry]
        return form.format(found[-1]) if found else NOTHING

    return value


def _time(done: Round) -> str:
    return duration(sum(manifest.seconds for manifest in done.manifests))


def _figures(unit: str, reward_unit: str) -> dict[str, Callable[[Round], str]]:
    """What each line is called and how a round comes by it; lengths are in `unit`."""
    per = f"{reward_unit} per {unit.removesuffix('s')}"
    return {
        "Responses sampled": _manifest("generate", lambda m: f"{m.rows_out:,}"),
        "… cut off at the length limit": _manifest(
            "generate", lambda m: _share(m.figures["cut_off"], m.rows_out)
        ),
        "… repeating another one": _manifest("pair", lambda m: f"{m.figures['duplicate_share']:.1%}"),
        f"Mean length, {unit}": _mean_length,
        f"Mean reward, {reward_unit}": _manifest("score", lambda m: f"{m.figures['mean_reward']:+z.2f}"),
        f"Alpha, {per}": _manifest("pair", lambda m: f"{m.figures['alpha']:.4g}"),
        f"Chosen longer by, {unit}": _manifest("pair", _difference),
        "Correlation of reward and length": _manifest("pair", _correlation),
        f"Median margin (5% to 95%), {reward_unit}": _manifest("pair", _margins),
        "Pairs: generated + offline": _manifest("pair", _mixture),
        "Training loss at the end": _last("loss", "{:.3f}"),
        "Training accuracy at the end": _last("rewards/accuracies", "{:.0%}"),
        "Trained tokens a second": _manifest("train", lambda m: f"{m.figures['tokens_per_second']:,.0f}"),
        "… of the GPUs' matrix rate": _manifest(
            "train", lambda m: f"{m.figures['share_of_matrix_rate']:.1%}"
        ),
        "Time": _time,
    }


def times(collected: Collected) -> dict[str, list[tuple[str, float]]]:
    """How long each stage took in every round: in words, and as a share of the longest, 0 to 1.

    A star marks the time of a last attempt alone.
    """
    longest = max((m.seconds for r in collected.rounds for m in r.manifests), default=0.0) or 1.0
    names = [stage.name for stage in of_round(collected.run)]
    return {name: [_cell(r.manifest(name), longest) for r in collected.rounds] for name in names}


def _cell(manifest: Manifest | None, longest: float) -> tuple[str, float]:
    if not manifest:
        return NOTHING, 0.0
    return duration(manifest.seconds) + "*" * manifest.resumed, manifest.seconds / longest


def rows(manifest: Manifest) -> list[str]:
    """What a stage of a round took in and gave out, each counted in its own unit."""
    return [*map(counted, (manifest.rows_in, manifest.rows_out), ROWS[manifest.stage])]


def left_out(manifest: Manifest) -> str:
    """How much a stage left out, and why; empty for nothing."""
    reasons = dict(manifest.dropped)
    if "pairs" in manifest.figures:  # each of two responses, and no response in two of them
        reasons["responses in no pair"] = manifest.rows_in - 2 * manifest.figures["pairs"]
    return "; ".join(f"{n:,} {why}" for why, n in reasons.items() if n)


def versions(collected: Collected) -> dict[str, list[str]]:
    """The versions of every package that stages ran with; more than one where they changed in between."""
    found: dict[str, dict[str, None]] = {}
    for _, manifest in collected.manifests:
        for package, version in manifest.versions.items():
            found.setdefault(package, {})[version] = None
    return {package: [*seen] for package, seen in found.items()}
