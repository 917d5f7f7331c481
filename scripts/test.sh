#!/usr/bin/env bash
# Checks the style, then runs the tests, two at a time (DICE_TEST_WORKERS sets another number).
#
#   bash scripts/test.sh                 all of it
#   bash scripts/test.sh --fast          all but those marked slow: about 70 seconds on two cores
#   bash scripts/test.sh -k replay       further arguments go to pytest
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"

selection=()
if [[ ${1:-} == --fast ]]; then
  selection=(-m "not slow")
  shift
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # threads of tests side by side would wait for each other
workers=(-n "${DICE_TEST_WORKERS:-2}" --dist loadfile)
"$PYTHON" -m pytest "${workers[@]}" ${selection[@]+"${selection[@]}"} "$@"
