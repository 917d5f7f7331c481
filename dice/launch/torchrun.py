"""torchrun, which ends with how a worker ended instead of a long table, so that the cause ends the log.

python -m dice.launch.torchrun [torchrun's arguments]
"""

import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from dice.launch.processes import signal_name


def main() -> None:
    try:
        run.main()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:  # a signal: the worker has said nothing
            print(f"a worker was killed by {signal_name(-failure.exitcode)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
