# Sourced by the other scripts. Goes to the repository's root, sets up the environment where that is
# needed, and defines `dice`, the command line of package dice.
#
# DICE_PYTHON=/path/to/python uses an environment of your own instead of .venv.
if [[ ${DICE_PYTHON:-} == */* && -f $DICE_PYTHON ]]; then
  export DICE_PYTHON="$(cd "$(dirname "$DICE_PYTHON")" && pwd)/$(basename "$DICE_PYTHON")"
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
PYTHON=${DICE_PYTHON:-$PWD/.venv/bin/python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
dice() { "$PYTHON" -m dice "$@"; }
