"""`report_to` of a recipe: each logger gets one run for a whole run of DICE.

The loop sends what the loggers do not have yet after each round and after the evaluation. `entries` reads it
from a run's manifests and logs, `ledger` remembers which run of a logger is ours, and there is one module for
each logger. A logger works in a process of its own: it can neither hold up the loop nor ask for input.
"""

import sys
from functools import partial

from dice.errors import first_line
from dice.launch import machines
from dice.launch.console import say, shown
from dice.launch.processes import run_logged
from dice.run.run import Run
from dice.run.stage import facts

FOLDER = "loggers"  # of a run


def send(run: Run) -> None:
    """Send what is new to the loggers of a run's recipe; with several nodes, node 0 does.

    A logger never makes a round fail: one that can't be reached is warned of, and gets the rest next time.
    """
    if not run.recipe.report_to:
        return
    with machines.meeting(FOLDER) as meeting:
        meeting.agree(partial(facts, run))
        if not meeting.leads:
            meeting.follow()
            return
        for name in run.recipe.report_to:
            log = run.path / FOLDER / f"{name}.log"
            try:
                run_logged([sys.executable, "-m", "dice.tools.loggers", str(run.path), name], log, name)
                say(f"{FOLDER:<10}{name} is up to date", mark="+")
            except Exception as error:
                reason = f"{first_line(error):.160} ({shown(log)})"
                say(f"{FOLDER:<10}{name} is not up to date: {reason}", mark="!")
