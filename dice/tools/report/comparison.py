"""The plots that set the models of a run side by side."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dice.stages.evaluate import Result
from dice.tools.report.collect import Collected
from dice.tools.report.svg import DASHED, PERCENT, Colour, Plot, canvas, drawing, ticks, to_svg
from dice.tools.report.verdict import STANDARD_ERRORS


def of_models(collected: Collected) -> list[Plot]:
    """The judged models side by side."""
    results = collected.results
    if not results:
        return []
    with drawing():
        return [_win_rates(results), _qualities(results), _answer_lengths(results)]


def _win_rates(results: list[Result]) -> Plot:
    shown = [result for result in results if result.win_rate is not None]
    figure, axes = _rows(shown, "win rate against the starting policy, DPO")
    for row, result in enumerate(shown):
        error = result.win_rate_error if math.isfinite(result.win_rate_error) else 0.0
        colour = Colour.CHOSEN if result.win_rate > 0.5 else Colour.REJECTED
        reach = [100 * (result.win_rate + side * STANDARD_ERRORS * error) for side in (-1, 1)]
        axes.plot(reach, [row, row], color=colour, linewidth=2.5, alpha=0.55)
        axes.plot(100 * result.win_rate, row, "o", color=colour, markersize=6)
        above = {"xytext": (0, 7), "textcoords": "offset points", "ha": "center", "color": Colour.INK}
        axes.annotate(f"{result.win_rate:.1%}", (100 * result.win_rate, row), **above)
    axes.axvline(50, color=Colour.MUTED, linewidth=1, linestyle=DASHED)
    axes.xaxis.set_major_formatter(PERCENT)
    caption = (
        f"Dots: share of comparisons won, ties half. Bars: {STANDARD_ERRORS} standard errors to either side. "
        "Beyond the dashed line is better than the start."
    )
    values = ", ".join(f"{result.model} {result.win_rate:.1%}" for result in shown)
    return Plot("Win rate", caption, to_svg(figure, "win-rate", f"Win rates against DPO: {values}"))


def _qualities(results: list[Result]) -> Plot:
    figure, values = _bars(results, "quality", ".3f", "mean quality, in the judge's units")
    caption = "The judge's mean over all answers to the held-out prompts."
    return Plot("Quality", caption, to_svg(figure, "quality", f"Mean quality: {values}"))


def _answer_lengths(results: list[Result]) -> Plot:
    figure, values = _bars(results, "mean_chars", ".1f", "mean length of the answers, characters")
    caption = (
        "Of the same answers. Growth from round to round is the trouble that the length balance is there for."
    )
    svg = to_svg(figure, "answer-length", f"Mean characters: {values}")
    return Plot("Length of the answers", caption, svg)


def _bars(results: list[Result], measure: str, form: str, label: str) -> tuple[Figure, str]:
    """A bar for each model with its figure of a measure, and all the figures in words."""
    figure, axes = _rows(results, label)
    lengths = [getattr(result, measure) for result in results]
    values = [format(length, form) for length in lengths]
    colours = [Colour.ACCENT if result.model.startswith("round-") else Colour.ALL for result in results]
    bars = axes.barh(range(len(results)), lengths, height=0.56, color=colours)
    axes.bar_label(bars, values, padding=4, color=Colour.INK)
    return figure, ", ".join(f"{r.model} {value}" for r, value in zip(results, values, strict=True))


def _rows(results: list[Result], label: str) -> tuple[Figure, Axes]:
    """Axes with a row for each model, the first one on top."""
    figure, axes = canvas(label, height=0.75 + 0.34 * max(len(results), 2))
    axes.set_yticks(range(len(results)), [result.model for result in results], color=Colour.INK)
    axes.set_ylim(len(results) - 0.5, -0.6)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.15)
    axes.xaxis.set_major_locator(ticks(5))
    return figure, axes
