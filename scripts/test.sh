#!/usr/bin/env bash
# Style, then tests: two at a time, which two CPU cores can do (DICE_TEST_WORKERS: another number).
#
#   bash scripts/test.sh                 all of it
#   bash scripts/test.sh --fast          without the tests marked slow: about 80 seconds on two cores
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
workers=(-n "${DICE_TEST_WORKERS:-2}" --dist loadfile)
"$PYTHON" -m pytest "${workers[@]}" ${selection[@]+"${selection[@]}"} "$@"
