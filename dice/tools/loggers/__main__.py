"""Sends what a run has come to to one logger: python -m dice.tools.loggers RUN LOGGER."""

import importlib
import signal
import sys

from dice.errors import BadInput, first_line
from dice.launch.complaint import complaining
from dice.run.run import open_run
from dice.tools.loggers import FOLDER
from dice.tools.loggers.entries import entries_of

LIMIT = 300  # seconds after which a logger that does not answer is given up

if __name__ == "__main__":
    signal.alarm(LIMIT)  # which ends this process, whatever it waits for
    run = open_run(sys.argv[1])
    with complaining():
        try:
            logger = importlib.import_module(f"dice.tools.loggers.to_{sys.argv[2]}")
            logger.send(run.recipe, entries_of(run), run.path / FOLDER)
        except Exception as error:
            raise BadInput(first_line(error)) from error
