# The other scripts source this file. It goes to the repository's root, makes the environment if there is
# none, and defines `dice`, which runs package dice of this checkout.
#
# DICE_PYTHON=/path/to/python uses your own environment instead of .venv.
unset -f cd; unset CDPATH; set +o noclobber +o posix # of the user's shell: scripts begin alike everywhere
if [[ ${DICE_PYTHON:-} == */* && -f $DICE_PYTHON ]]; then
  export DICE_PYTHON="$(cd "$(dirname "$DICE_PYTHON")" && pwd)/$(basename "$DICE_PYTHON")"
fi
export DICE_HERE="${DICE_HERE:-$PWD}" # the models that a user names may lie there
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
PYTHON=${DICE_PYTHON:-$PWD/.venv/bin/python}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
dice() { "$PYTHON" -m dice "$@"; }
