#!/usr/bin/env bash
# DICE, all rounds of a recipe:
#
#   bash scripts/run_dice/iter.sh tiny                      two CPU cores, about 5 minutes
#   bash scripts/run_dice/iter.sh llama3                    8 GPUs of 80 GB
#   bash scripts/run_dice/iter.sh llama3 rounds=3 replay.gamma=0.25 run=my-run
#
# Any key of the recipe can be overridden. What is done is skipped; a killed run goes on where it stopped.
set -euo pipefail
if [[ $# -eq 0 || $1 == -h || $1 == --help ]]; then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  echo "Recipes: $(cd "$(dirname "${BASH_SOURCE[0]}")/recipes" && echo */ | tr -d /)"
  exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/../env.sh"
export DICE_IN_LOOP=1

resolved=$(dice resolve "$@") # refuses unknown recipes, keys and values
read -r rounds run <<<"$resolved"

echo "DICE $1: $rounds rounds in $run"
dice start "$@"
for ((round = 1; round <= rounds; round++)); do
  echo "round $round"
  bash scripts/run_dice/pipeline.sh "$run" "$round"
done
echo "evaluation"
dice evaluate "$run"
dice places "$run"
