#!/usr/bin/env bash
# One round of DICE, top to bottom; iter.sh calls it for each round:
#
#   bash scripts/run_dice/pipeline.sh results/RUN ROUND
#
# The policy of round 1 is the recipe's, that of a later round is the model of the round before.
set -euo pipefail
run=$(realpath "${1:?which run? results/RUN}")
round=${2:?which round? 1, 2, ...}
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"

generate() { dice generate "$run" "$round"; } # 1.1  K responses to each prompt, from the policy
score() { dice score "$run" "$round"; }       # 1.2  their implicit rewards, log pi - log pi_ref
pair() { dice pair "$run" "$round"; }         # 1.3  length-balanced best and worst, mixed with offline pairs
train() { dice train "$run" "$round"; }       # 2    DPO by LLaMA-Factory: the next policy

generate
score
pair
train
