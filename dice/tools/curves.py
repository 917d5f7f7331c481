"""The trainer's log of a round, `curves.jsonl`: loss, accuracy and rewards by step."""

import json
from pathlib import Path

from dice.errors import BadInput, spelled
from dice.run import files

# What is read of an entry, where it is there; validation's begin with eval_.
LOGGED = ("loss", "rewards/accuracies", "rewards/chosen", "rewards/rejected", "rewards/margins")


def read_curves(path: Path) -> list[dict[str, float]]:
    """The entries of a log, each with its step. Raises BadInput for a line that is no entry."""
    entries = []
    with files.open_file(path) as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
                raise BadInput(f"{path}:{number}: not JSON ({error})") from None
            if not isinstance(entry, dict) or "step" not in entry:
                raise BadInput(f"{path}:{number}: not an entry of the trainer's log, which has a step")
            for key in ("step", *LOGGED, *(f"eval_{key}" for key in LOGGED)):
                if key in entry and type(entry[key]) not in (int, float):
                    raise BadInput(f"{path}:{number}: {key} is {spelled(entry[key]):.40}, not a number")
            entries.append(entry)
    return entries
