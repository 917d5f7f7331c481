"""What a run in the tiny world needs: the world, and a judge where the rewards are a judge's.

python scripts/tiny/prepare_for.py REWARD      (the recipe's score.reward)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import prepare
import prepare_judge
from dice.launch.console import run

if __name__ == "__main__":
    run(prepare_judge.main if sys.argv[1:] == ["judge"] else prepare.main)
