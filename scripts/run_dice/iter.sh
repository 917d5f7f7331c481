#!/usr/bin/env bash
# DICE, all rounds of a recipe:
#
#   bash scripts/run_dice/iter.sh tiny                      two CPU cores, about 5 minutes
#   bash scripts/run_dice/iter.sh llama3                    8 GPUs of 80 GB
#   bash scripts/run_dice/iter.sh llama3 rounds=3 replay.gamma=0.25 run=my-run
#
# Any key of the recipe can be overridden. What is done is skipped; a killed run goes on where it stopped.
set -euo pipefail
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
case ${1:-} in
  '' | -*)
    sed -n '2,8s/^# \{0,1\}//p' "$here/iter.sh"
    echo "Recipes: $(cd "$here/recipes" && ls | xargs)"
    exit 2
    ;;
esac
recipe=$1
shift
for override in "$@"; do
  if [[ $override == -* ]]; then
    echo "error: '$override' is not of the form key=value" >&2
    exit 2
  fi
done
recipe=${recipe%/dice.yaml}
if [[ -e $recipe/dice.yaml ]]; then recipe=$(cd "$recipe" && pwd); fi # a folder of one's own
source "$here/pipeline.sh"
export DICE_IN_LOOP=1

resolved=$(dice resolve "$recipe" "$@") # refuses unknown recipes, keys and values
read -r rounds run <<<"$resolved"

echo "DICE $(basename "$recipe"): $rounds $( ((rounds == 1)) && echo round || echo rounds) in $run"
dice start "$recipe" "$@"
if [[ ${DICE_SHARE:-} ]]; then dice share "$run"; fi # what another run under results/ has done already
dice train_rm "$run" # the reward model, where score.reward_model=train
for ((round = 1; round <= rounds; round++)); do
  echo "round $round"
  pipeline
done
echo "evaluation"
dice evaluate "$run"
dice places "$run"
