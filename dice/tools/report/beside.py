"""Two runs beside each other: their figures by round, and what their recipes do differently."""

from collections.abc import Callable
from dataclasses import dataclass

from dice.errors import BadInput
from dice.launch.console import shown, with_error
from dice.run.manifests import differences
from dice.stages.evaluate import Result
from dice.tools.report.collect import Collected, Round
from dice.tools.report.figures import UNITS
from dice.tools.report.svg import NUMBER, PERCENT, Colour, Plot, canvas, drawing, legend, ticks, to_svg
from dice.tools.report.tables import NOTHING, glance

LOOKS = (Colour.ACCENT, Colour.INK), ("o-", "s--")  # colours and styles of the two lines of a plot
Lines = dict[str, list[str]]  # by figure, values in words from the start (round 0) on
MEASURES: dict[str, Callable[[Result], str]] = {
    "Quality": lambda result: f"{result.quality:.3f}",
    "Win rate against DPO": lambda result: (
        NOTHING if result.win_rate is None else with_error(result.win_rate, result.win_rate_error)
    ),
    "Mean length of the answers, characters": lambda result: f"{result.mean_chars:,.1f}",
}


@dataclass(frozen=True)
class Beside:
    """What the page shows of two runs: this one, and the other."""

    names: tuple[str, str]
    columns: list[str]
    figures: dict[str, tuple[list[str], list[str]]]  # each run's values, a column each
    recipes: list[str]  # what the other's recipe does differently
    notes: list[str]  # what can't be compared
    plots: list[Plot]


def beside(ours: Collected, theirs: Collected) -> Beside:
    """Raises BadInput for a run and itself, and for two that have no figure in common."""
    runs = ours.run, theirs.run
    if runs[0].path.samefile(runs[1].path):
        raise BadInput(f"{runs[1].path}: that is the run itself; give another run to compare it with")
    notes, judged = _notes(ours, theirs), not _judging(ours, theirs)
    if not judged and ours.rounds[0].reward_unit != theirs.rounds[0].reward_unit:
        raise BadInput(f"{runs[0].path} and {runs[1].path} can't be compared. {' '.join(notes)}")
    names = tuple(run.recipe.run for run in runs)
    names = tuple(shown(run.path) for run in runs) if names[0] == names[1] else names
    last = max(done.t for collected in (ours, theirs) for done in collected.rounds)
    lines = [_lines(collected, last, judged) for collected in (ours, theirs)]
    blank = [NOTHING] * (last + 1)
    figures = {label: tuple(side.get(label, blank) for side in lines) for label in lines[0] | lines[1]}
    recipes = [run.recipe.model_dump(exclude={"run", "results_dir"}) for run in runs]
    columns = ["start", *(f"round {t}" for t in range(1, last + 1))]
    plots = _plots(names, (ours, theirs), judged)
    return Beside(names, columns, figures, differences(*recipes), notes, plots)


def _judging(ours: Collected, theirs: Collected) -> list[str]:
    """Why qualities and win rates of the two can't be compared; empty where they can."""
    found = [c.evaluation.manifest if c.evaluation else None for c in (ours, theirs)]
    if None in found:
        return ["Not both runs are judged."]
    inputs = [manifest.inputs for manifest in found]
    things = {"judge": "judges", "prompts": "held-out prompts"}
    return [
        f"They were judged with different {what}: qualities and win rates can't be compared."
        for key, what in things.items()
        if inputs[0].get(key) != inputs[1].get(key)
    ]


def _notes(ours: Collected, theirs: Collected) -> list[str]:
    notes = _judging(ours, theirs)
    if not notes:
        starts = [collected.evaluation.manifest.inputs.get("DPO") for collected in (ours, theirs)]
        if starts[0] != starts[1]:
            notes.append("They start from different policies: a win rate is against each one's own start.")
    units = [collected.rounds[0].reward_unit for collected in (ours, theirs)]
    if units[0] != units[1]:
        notes.append(f"Rewards are in {units[0]} and in {units[1]}: they can't be compared, nor can margins.")
    return notes


def _lines(collected: Collected, last: int, judged: bool) -> Lines:
    """The figures of a run from round 0 to the last one."""
    results = {result.model: result for result in collected.results if judged}
    models = [results.get("DPO" if t == 0 else f"round-{t}") for t in range(last + 1)]
    lines = {
        label: [words(result) if result else NOTHING for result in models]
        for label, words in MEASURES.items()
        if results
    }
    for label, values in glance(collected).items():
        by_round = dict(zip((done.t for done in collected.rounds), values, strict=True))
        lines[label] = [by_round.get(t, NOTHING) for t in range(last + 1)]
    return lines


def _plots(names: tuple[str, str], both: tuple[Collected, Collected], judged: bool) -> list[Plot]:
    def by_round(value: Callable[[Round], float | None]) -> list[list[tuple[int, float]]]:
        found = [[(done.t, value(done)) for done in collected.rounds] for collected in both]
        return [[point for point in points if point[1] is not None] for points in found]

    units = {UNITS[done.scored.unit] for collected in both for done in collected.rounds if done.scored}
    rewards = {collected.rounds[0].reward_unit for collected in both}
    with drawing():
        plots = []
        if judged:
            rates = [_rates(collected.results) for collected in both]
            plots.append(_plot(names, rates, "Win rate", "win rate against the start", PERCENT))
        if len(units) == 1:
            label = f"mean length, {units.pop()}"
            plots.append(_plot(names, by_round(_mean_length), "Length of the responses", label, NUMBER))
        if len(rewards) == 1:
            label = f"median margin, {rewards.pop()}"
            plots.append(_plot(names, by_round(_median_margin), "Margins", label, NUMBER))
    return plots


def _rates(results: list[Result]) -> list[tuple[int, float]]:
    found = [(result.model.removeprefix("round-"), result.win_rate) for result in results]
    return [(0, 50.0), *((int(t), 100 * rate) for t, rate in found if t.isdigit())]


def _mean_length(done: Round) -> float | None:
    return done.scored.lengths.mean() if done.scored and len(done.scored.lengths) else None


def _median_margin(done: Round) -> float | None:
    pair = done.manifest("pair")
    return (pair.figures.get("margins") or {}).get("50%") if pair else None


def _plot(
    names: tuple[str, str], both: list[list[tuple[int, float]]], title: str, label: str, form: str
) -> Plot:
    """A line for each of the two runs, by round."""
    figure, axes = canvas("round", label, height=2.4)
    values = []
    for name, points, colour, style in zip(names, both, *LOOKS, strict=True):
        (line,) = axes.plot([t for t, _ in points], [value for _, value in points], style, color=colour)
        line.set_label(f" {name}")  # one that begins with _ would not be shown
        values.append(f"{name}: {', '.join(f'{value:.4g}' for _, value in points)}")
    axes.xaxis.set_major_locator(ticks(6, whole=True))
    axes.yaxis.set_major_locator(ticks(5))
    axes.yaxis.set_major_formatter(form)
    legend(axes)
    return Plot(title, "", to_svg(figure, f"beside-{title}", f"{title} by round. {'; '.join(values)}"))
