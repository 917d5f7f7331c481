#!/usr/bin/env bash
# One round of DICE, top to bottom. iter.sh calls `pipeline` for each round. By hand:
#
#   bash scripts/run_dice/pipeline.sh results/RUN ROUND [--force]
#
# The policy of round 1 is the recipe's. The policy of a later round is the model of the round before.
set -euo pipefail
unset -f cd; unset CDPATH; set +o noclobber +o posix # of the user's shell: scripts begin alike everywhere

generate() { dice generate "$run" "$round" $force; } # 1.1  K responses to each prompt, from the policy
score() { dice score "$run" "$round" $force; }       # 1.2  their rewards: log pi - log pi_ref, unless score.reward says otherwise
pair() { dice pair "$run" "$round" $force; }         # 1.3  best and worst by length-balanced reward, mixed with offline pairs
train() { dice train "$run" "$round" $force; }       # 2    DPO by LLaMA-Factory: the next policy

pipeline() {
  generate
  score
  pair
  train
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  if [[ $# -lt 2 || $# -gt 3 || ${3:---force} != --force || ! -e $1/recipe.yaml ]]; then
    echo "error: give a run's folder, as iter.sh makes it, and a round: pipeline.sh results/RUN ROUND [--force]" >&2
    exit 2
  fi
  run=$(cd "$1" && pwd)
  round=$2
  force=${3:-}
fi
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then pipeline; fi
