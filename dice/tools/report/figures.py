"""The plots of a round. Each says in its caption what is seen; axes have units."""

import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dice.pairing import health, length_balance
from dice.tools.report.collect import Round, Scored
from dice.tools.report.svg import DASHED, PERCENT, Colour, Plot, canvas, drawing, legend, ticks, to_svg
from dice.tools.report.text import minus

TAIL = 0.1  # percent of the values at either end that a plot may leave out
MOST_BINS = 48
HEXAGONS = (22, 10)  # of a density, across and up: each takes some 130 bytes of the page
MOST_POINTS = 200_000  # responses that a density is drawn of; of more, so many at random
NAMES = {"rewards/chosen": "chosen", "rewards/rejected": "rejected", "rewards/margins": "margin"}
UNITS = {"chars": "characters", "tokens": "tokens"}


def of_round(done: Round) -> list[Plot]:
    """What a round's samples, pairs and training look like, as far as the round has come."""
    plots = []
    with drawing():
        if done.scored and len(done.scored.rewards):
            plots += [_rewards(done), _lengths(done)]
            if len(done.scored.chosen):
                plots.append(_pair_margins(done))
            if done.manifest("pair"):
                plots += [_density(done, shaped) for shaped in (False, True)]
        if done.balance is not None:
            plots.append(_balance(done))
        for key, draw in (("loss", _loss), ("rewards/accuracies", _accuracy), ("rewards/margins", _margins)):
            if any(key in entry for entry in done.curves):
                plots.append(draw(done))
    return plots


def _rewards(done: Round) -> Plot:
    scored = done.scored
    figure, axes = canvas(f"reward, {done.reward_unit}", _density_of(done.reward_unit))
    outside = _histograms(axes, scored, scored.rewards, whole=False)
    axes.axvline(0, color=Colour.MUTED, linewidth=0.8)
    mean = scored.rewards.mean()
    caption = f"Of {len(scored.rewards):,} scored responses; their mean is {mean:+z.2f} {done.reward_unit}."
    if len(scored.chosen):
        chosen, rejected = scored.rewards[scored.chosen].mean(), scored.rewards[scored.rejected].mean()
        caption += f" Chosen {chosen:+.2f}, rejected {rejected:+.2f}: the further apart, the clearer."
    return _plot(done, "reward", "Rewards", figure, caption + outside)


def _lengths(done: Round) -> Plot:
    scored, unit = done.scored, UNITS[done.scored.unit]
    figure, axes = canvas(f"length of a response, {unit}", _density_of(unit))
    outside = _histograms(axes, scored, scored.lengths, whole=True)
    caption = f"The mean is {scored.lengths.mean():,.1f} {unit}."
    if len(scored.chosen):
        chosen, rejected = scored.lengths[scored.chosen].mean(), scored.lengths[scored.rejected].mean()
        caption += f" Chosen {chosen:,.1f}, rejected {rejected:,.1f}: the two should lie on each other."
    return _plot(done, "length", "Lengths", figure, caption + outside)


def _pair_margins(done: Round) -> Plot:
    scored, pair = done.scored, done.manifest("pair")
    shaped = length_balance.shaped_rewards(scored.rewards, scored.lengths, pair.figures["alpha"])
    margins = shaped[scored.chosen] - shaped[scored.rejected]
    edges = _edges(margins, len(margins), whole=False)
    edges = edges[edges >= 0] if edges[0] < 0 < edges[-2] else edges
    label = f"margin of a pair in shaped reward, {done.reward_unit}"
    figure, axes = canvas(label, _density_of(done.reward_unit))
    _stairs(axes, margins, edges, Colour.ACCENT, 0.3, "margins")
    axes.axvline(np.median(margins), color=Colour.INK, linewidth=1, linestyle=DASHED)
    median = f"{np.median(margins):.2f} {done.reward_unit}"
    caption = f"Of {len(margins):,} pairs; the dashed line is the median, {median}."
    if done.reward_unit == "nats":
        caption += f" Under {health.SMALL_MARGIN} nats, policy and reference hardly tell best from worst."
    return _plot(done, "pair-margin", "Margins", figure, caption + _outside(margins, edges))


def _density_of(unit: str) -> str:
    return f"density, 1/{unit.removesuffix('s')}"


def _histograms(axes: Axes, scored: Scored, values: np.ndarray, whole: bool) -> str:
    """Densities of all, chosen and rejected over the same bins; says how many values lie outside."""
    edges = _edges(values, len(scored.chosen) or len(values), whole)
    groups = [("all", values, Colour.ALL, 0.28), ("chosen", values[scored.chosen], Colour.CHOSEN, 0.1)]
    groups.append(("rejected", values[scored.rejected], Colour.REJECTED, 0.1))
    for label, part, colour, shade in groups:
        if len(part):
            _stairs(axes, part, edges, colour, shade, label)
    legend(axes)
    return _outside(values, edges)


def _stairs(axes: Axes, values: np.ndarray, edges: np.ndarray, colour: str, shade: float, label: str) -> None:
    heights = np.histogram(values, edges)[0] / (len(values) * np.diff(edges))
    axes.stairs(heights, edges, fill=True, color=colour, alpha=shade, linewidth=0)
    axes.stairs(heights, edges, color=colour, label=label, linewidth=1.5)
    axes.yaxis.set_major_locator(ticks(4))


def _outside(values: np.ndarray, edges: np.ndarray) -> str:
    count = int(((values < edges[0]) | (values > edges[-1])).sum())
    return f" {count:,} lie outside what is drawn." if count else ""


def _edges(values: np.ndarray, count: int, whole: bool) -> np.ndarray:
    """Edges of bins for all values but the tails, as many as suit a group of `count` values.

    Those of whole numbers lie halfway between two of them.
    """
    bins = min(max(8, int(2 * math.sqrt(count))), MOST_BINS)
    low, high = _range(values)
    if whole:
        width = max(1, math.ceil((high - low) / bins))
        return np.arange(low, high + width + 1, width) - 0.5
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Where all values but the tails lie; of few values, all of them."""
    ends = zip((TAIL, 100 - TAIL), ("lower", "higher"), strict=True)
    return tuple(float(np.percentile(values, share, method=method)) for share, method in ends)


def _density(done: Round, shaped: bool) -> Plot:
    """Reward against length, each relative to its prompt's mean, as hexagons of more or less colour."""
    scored, unit = done.scored, UNITS[done.scored.unit]
    pair = done.manifest("pair")
    alpha = pair.figures["alpha"] if shaped else 0.0
    rewards = length_balance.shaped_rewards(scored.rewards, scored.lengths, alpha)
    x, y = (_relative(values, scored.prompts) for values in (scored.lengths, rewards))
    drawn = slice(None)
    if len(x) > MOST_POINTS:
        drawn = np.random.default_rng(done.t).choice(len(x), MOST_POINTS, replace=False)
    label = f"{'shaped ' * shaped}reward, {done.reward_unit} (relative)"
    figure, axes = canvas(f"length, {unit} (relative to the prompt's mean)", label)
    _hexagons(axes, x[drawn], y[drawn])
    axes.plot(*_trend(x, y, min(max(2, len(x) // 30), 16)), color=Colour.INK, linewidth=1.6)
    axes.axhline(0, color=Colour.MUTED, linewidth=0.8)
    figure_of = pair.figures["correlation" if shaped else "correlation_without_shaping"]
    correlation = "none" if figure_of is None else f"{figure_of:+z.2f}"
    if shaped:
        per = f"{done.reward_unit} per {unit.removesuffix('s')}"
        caption = f"Reward minus {alpha:.4g} {per}. The line, the mean at each length, should be about flat."
    else:
        caption = "Where the line, the mean at each length, rises, longer answers get more reward."
    caption += f" Correlation within prompts {correlation}."
    title = "Reward and length, after shaping" if shaped else "Reward and length, before shaping"
    return _plot(done, f"density-{shaped}", title, figure, caption)


def _relative(values: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Values (N,) minus the mean of their prompt's."""
    counts = np.bincount(prompts)
    return values - (np.bincount(prompts, values) / np.maximum(counts, 1))[prompts]


def _hexagons(axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
    (left, right), (low, high) = _range(x), _range(y)
    right, high = max(right, left + 1e-6), max(high, low + 1e-6)
    grid = axes.hexbin(x, y, gridsize=HEXAGONS, extent=(left, right, low, high), mincnt=1, linewidths=0)
    depth = np.log1p(grid.get_array())
    depth = 0.08 + 0.82 * depth / depth.max()
    rgb = matplotlib.colors.to_rgb(Colour.ACCENT)
    grid.set_array(None)
    grid.set_facecolors([(*rgb, round(float(share), 2)) for share in depth])
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)


def _trend(x: np.ndarray, y: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of x and y within parts of equally many points, ordered by x."""
    edges = np.unique(np.quantile(x, np.linspace(0, 1, parts + 1)))
    part = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
    counts = np.bincount(part)
    there = counts > 0
    return tuple(np.bincount(part, values)[there] / counts[there] for values in (x, y))


def _balance(done: Round) -> Plot:
    alphas, differences = done.balance
    pair = done.manifest("pair")
    unit = UNITS[pair.recipe["pair"]["length"]]
    alpha, left = pair.figures["alpha"], pair.figures["length_difference"]
    per = f"{done.reward_unit} per {unit.removesuffix('s')}"
    figure, axes = canvas(f"alpha, {per}", f"mean difference, {unit}")
    steep = np.abs(differences) <= 0.8 * np.abs(differences).max()
    ends = [0.0, alpha, *alphas[steep]]
    room = 0.06 * (max(ends) - min(ends)) or 1.0
    axes.plot(alphas, differences, color=Colour.ACCENT, drawstyle="steps-mid", label="best minus worst")
    axes.axhline(0, color=Colour.MUTED, linewidth=0.8)
    axes.axvline(alpha, color=Colour.INK, linewidth=1, linestyle=DASHED)
    axes.plot(
        alpha, left, "o", color=Colour.INK, markersize=5, label=minus(f"alpha {alpha:.4g}: {left:+z.1f}")
    )
    axes.set_xlim(min(ends) - room, max(ends) + room)
    axes.xaxis.set_major_locator(ticks(6))
    legend(axes)
    before = pair.figures["length_difference_without_shaping"]
    caption = (
        f"How much longer the best response is than the worst, on average. Without shaping (alpha 0) "
        f"{before:+z.1f} {unit}; of the pairs that were taken, {left:+z.1f}."
    )
    return _plot(done, "balance", "Length difference against alpha", figure, caption)


def _training(done: Round, unit: str, lines: dict[str, str], scale: float = 1.0) -> tuple[Figure, Axes]:
    """Entries of the trainer's log, and of its validation, against its steps; `lines` have their colours."""
    figure, axes = canvas("optimizer step", unit, height=2.4)
    for key, colour in lines.items():
        for entry, style in ((key, "-"), (f"eval_{key}", "--")):
            if logged := [(row["step"], scale * row[entry]) for row in done.curves if entry in row]:
                name = NAMES.get(key, "training") if entry == key else None
                marker = "o" if len(logged) < 3 else None
                look = {"color": colour, "label": name, "marker": marker, "markersize": 3.5}
                axes.plot(*zip(*logged, strict=True), style, **look)
    if any(f"eval_{key}" in row for key in lines for row in done.curves):
        axes.plot([], [], "--", color=Colour.MUTED, label="validation")
    axes.xaxis.set_major_locator(ticks(6, whole=True))
    axes.yaxis.set_major_locator(ticks(5))
    legend(axes)
    return figure, axes


def _ends(done: Round, key: str) -> tuple[float, float]:
    """The first and the last value of an entry of the trainer's log."""
    values = [row[key] for row in done.curves if key in row]
    return values[0], values[-1]


def _loss(done: Round) -> Plot:
    figure, _ = _training(done, "loss, nats", {"loss": Colour.ACCENT})
    first, last = _ends(done, "loss")
    caption = f"From {first:.3f} to {last:.3f}."
    if done.manifest("train").recipe["train"]["args"].get("pref_loss", "sigmoid") == "sigmoid":
        caption += " Where policy and reference are one, DPO's loss is ln 2 = 0.693."
    return _plot(done, "loss", "Training: loss", figure, caption)


def _accuracy(done: Round) -> Plot:
    figure, axes = _training(done, "accuracy", {"rewards/accuracies": Colour.ACCENT}, scale=100)
    axes.axhline(50, color=Colour.MUTED, linewidth=0.8, linestyle=DASHED)
    axes.yaxis.set_major_formatter(PERCENT)
    first, last = _ends(done, "rewards/accuracies")
    caption = f"Share of pairs whose chosen response is ahead: {first:.0%}, at the end {last:.0%}."
    return _plot(done, "accuracy", "Training: accuracy", figure, caption)


def _margins(done: Round) -> Plot:
    colours = {"chosen": Colour.CHOSEN, "rejected": Colour.REJECTED, "margins": Colour.INK}
    lines = {f"rewards/{name}": colour for name, colour in colours.items()}
    figure, axes = _training(done, "beta × nats", lines)
    axes.axhline(0, color=Colour.MUTED, linewidth=0.8)
    _, last = _ends(done, "rewards/margins")
    caption = (
        f"Rewards of the training, relative to where the round started; the margin ends at {last:.3f}. "
        "Both lines falling means that the margin is won by making both answers less probable."
    )
    return _plot(done, "margins", "Training: rewards and margin", figure, caption)


def _plot(done: Round, key: str, title: str, figure: Figure, caption: str) -> Plot:
    caption = minus(caption)
    return Plot(title, caption, to_svg(figure, f"round-{done.t}-{key}", f"{title}. {caption}"))
