"""`python -m dice report RUN [OTHER]`: one HTML file that says whether a run worked, and why.

`collect` reads the run's numbers; `verdict`, `tables`, the plots of `comparison` and `figures` (drawn by
`svg`), `beside` (the other run), `answers` to held-out prompts and `pairs` (with their `samples`, `tokens`
and `difference`) are made of them; `page` puts it together. matplotlib and jinja2 are imported only once
there is something to draw.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from dice.errors import counted, first_line
from dice.launch import machines
from dice.launch.console import say, shown
from dice.run import files
from dice.run.run import Run
from dice.run.stage import facts
from dice.tools.report.collect import Round, collect

if TYPE_CHECKING:
    from dice.tools.report.svg import Plot

MOST_BYTES = 4_800_000  # of the page
PAGE_BYTES = 250_000  # of it for text, tables, style and script
PLOT_BYTES = 2_400_000  # of it for the plots of rounds: nine of a round take 150,000 to 210,000


def report(run: Run, other: Run | None, quick: bool, in_loop: bool) -> None:
    """Write a run's report, with `other` beside it where there is one; with several nodes, node 0 does.

    In the loop only where the recipe wants one, and without a failure if it can't be written.
    """
    if in_loop and not run.recipe.report:
        return
    try:
        with machines.meeting("report") as meeting:
            meeting.agree(partial(facts, run))
            write_report(run, other, quick) if meeting.leads else meeting.follow()
    except Exception as error:
        if not in_loop:
            raise
        say(f"report    not written: {first_line(error)}", mark="!")


def write_report(run: Run, other: Run | None = None, quick: bool = False) -> None:
    """Write `report.html` into the run's folder, of what is there so far.

    Pairs are shaded token by token, for which both models of a round are loaded, once; `quick` leaves
    out what is not computed yet. Raises BadInput where a run has no round that has begun, a file can't
    be read, or the two can't be compared.
    """
    collected, beside_it = collect(run), collect(other) if other else None
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of its fonts
    from dice.tools.report import answers, beside, comparison, page, pairs

    compared = beside.beside(collected, beside_it) if beside_it else None
    asked = answers.answers(collected)
    models = comparison.of_models(collected)
    plots = _plots(collected.rounds)
    drawn = _bytes([*models, *(compared.plots if compared else [])]) + sum(map(_bytes, plots.values()))
    paired = [done for done in collected.rounds if done.paired]
    room = MOST_BYTES - PAGE_BYTES - drawn - sum(map(answers.size, asked))
    room = max(room, 0) // max(len(paired), 1)
    samples = [pairs.sample(run, done, not quick, room) for done in paired]
    html = page.render(collected, compared, models, plots, asked, samples)
    files.write_text(run.path / "report.html", html)
    count = sum(len(sample["pairs"]) for sample in samples)
    size = len(html.encode()) / 1e6
    say(
        f"{'report':<10}{shown(run.path)}/report.html: {counted(count, 'pair')} to read, {size:.1f} MB",
        mark="+",
    )
    expected = quick or run.recipe.score.reward != "implicit"
    notes = [] if expected else [sample["note"] for sample in samples if sample["note"]]
    for note in dict.fromkeys(notes):
        say(f"{'':<10}{note}", mark="!")


def _plots(rounds: Sequence[Round]) -> "dict[int, list[Plot]]":
    """Plots by round, of as many rounds as there is room for: the first, the last, the second, and so on."""
    from dice.tools.report import figures

    plots, room = {}, PLOT_BYTES
    for done in sorted(rounds, key=lambda done: min(done.t - rounds[0].t, rounds[-1].t - done.t)):
        drawn = figures.of_round(done)
        room -= _bytes(drawn)
        if room < 0:
            break
        plots[done.t] = drawn
    return plots


def _bytes(plots: "Sequence[Plot]") -> int:
    return sum(len(plot.svg.encode()) for plot in plots)
