#!/usr/bin/env bash
# Checks a machine with one GPU in at most 8 minutes: what runs, whether it is right, and how fast it is.
#
#   bash scripts/gpu_check.sh                    a table, and gpu_check.json beside it
#   bash scripts/gpu_check.sh --output FILE      ... or another file
#   bash scripts/gpu_check.sh --only score       the parts whose name holds this word
#
# Nothing is downloaded or installed: it takes DICE_PYTHON, else .venv, else python3, and passes over what is
# missing there (vLLM, DeepSpeed, LLaMA-Factory, flash attention) with the reason. It runs on CPUs as well.
# The status is 1 where something failed.
set -euo pipefail
unset -f cd; unset CDPATH; set +o noclobber +o posix # of the user's shell: scripts begin alike everywhere
root=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)
python=${DICE_PYTHON:-$root/.venv/bin/python}
if [[ -z ${DICE_PYTHON:-} && ! -x $python ]]; then python=python3; fi
HF_HUB_OFFLINE=1 exec "$python" "$root/speed/gpu_check.py" "$@"
