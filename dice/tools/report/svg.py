"""Matplotlib figures as SVG that lives in a page: its colours are the page's, its text is text.

Colours are drawn as placeholders and written as CSS variables, so that one drawing serves light, dark
and paper. Nothing in it depends on the clock, so the same numbers give the same bytes.
"""

import html
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator


class Colour(StrEnum):
    """The page's colours by what they mean (templates/report.css); each is drawn as a hex code of its own."""

    INK = "#010101"
    MUTED = "#020202"
    GRID = "#030303"
    ALL = "#040404"
    CHOSEN = "#050505"
    REJECTED = "#060606"
    ACCENT = "#070707"


DASHED = (0, (3, 3))  # a line style
NUMBER, PERCENT = "{x:z.9g}", "{x:z.6g}%"  # values of an axis, without zeros at their end
WIDTH, HEIGHT = 4.6, 2.9  # inches of 72 units: drawn about as large as a phone shows it
LEGEND = 50  # characters, with those for the signs, that a line of a legend holds
STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.edgecolor": Colour.MUTED,
    "axes.labelcolor": Colour.MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": Colour.GRID,
    "grid.linewidth": 0.6,
    "text.color": Colour.INK,
    "text.parse_math": False,
    "xtick.color": Colour.MUTED,
    "ytick.color": Colour.MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Plot:
    """A drawing with its words; `svg` goes into a page as it is."""

    title: str
    caption: str  # what is seen
    svg: Markup


@contextmanager
def drawing() -> Iterator[None]:
    """Where figures are made and written: in the page's style, without matplotlib's warnings."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def canvas(x: str, y: str = "", height: float = HEIGHT) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, which `x` and `y` name. Call it within `drawing`."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot(xlabel=x, ylabel=y)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(NUMBER)
    return figure, axes


def ticks(count: int, whole: bool = False) -> MaxNLocator:
    """At most so many values of an axis, as people count: by 1, 2, 2.5 or 5."""
    return MaxNLocator(count, steps=[1, 2, 2.5, 5, 10], integer=whole)


def legend(axes: Axes) -> None:
    """The names of what is drawn, above the axes, where there are several; in lines that are not clipped."""
    names = axes.get_legend_handles_labels()[1]
    if len(names) > 1:
        columns = max(1, min(len(names), LEGEND // (max(map(len, names)) + 4)))
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=columns, borderaxespad=0.2)


def _rounded(attribute: re.Match) -> str:
    """Coordinates to a hundredth of a unit."""
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute[0])


# What is taken out of matplotlib's SVG, or made shorter.
CLEANED = (
    (re.compile(r"<metadata>.*?</metadata>\s*", re.DOTALL), ""),
    (re.compile(r"<!--.*?-->\s*", re.DOTALL), ""),
    (re.compile(r"<style.*?</style>\s*", re.DOTALL), ""),  # it would be the whole page's
    (re.compile(r'<g id="[^"]*"'), "<g"),
    (re.compile(r" font-family: [^;]*;"), ""),
    (re.compile(r' transform="rotate\(-0 [^"]*"'), ""),
    (re.compile(r'(?<= )(d|x|y|points|transform)="[^"]*"'), _rounded),
    (re.compile(r"\n\s*"), "\n"),
)


def to_svg(figure: Figure, key: str, description: str) -> Markup:
    """The figure as an <svg> element; `key` is unlike that of every other figure of the page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    for pattern, replacement in CLEANED:
        drawing = pattern.sub(replacement, drawing)
    for colour in Colour:
        drawing = drawing.replace(colour, f"var(--{colour.name.lower()})")
    box = re.search(r'viewBox="[^"]*"', drawing)[0]
    label = html.escape(description, quote=True)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-label="{label}">'
    return Markup(opening + re.sub(r"^<svg[^>]*>", "", drawing).replace("xlink:href", "href"))
