#!/usr/bin/env bash
# Runs all rounds of a recipe; `python -m dice plan RECIPE` estimates the cost on your hardware.
#
#   bash scripts/run_dice/iter.sh tiny      two CPU cores: about 6 minutes
#   bash scripts/run_dice/iter.sh llama3    8 GPUs of 80 GB: about 2.6 hours, by that estimate for A100s
#   bash scripts/run_dice/iter.sh llama3 rounds=3 replay.gamma=0.25 run=my-run
#
# Any key of the recipe can be overridden. Finished work is skipped, and a killed run goes on where it stopped.
# --force makes anew what was made with another recipe, or whose files were changed.
# For several machines, start it on each with NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT set.
set -euo pipefail
unset -f cd; unset CDPATH; set +o noclobber +o posix # of the user's shell: scripts begin alike everywhere
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
recipe='' force='' overrides=()
for argument in "$@"; do
  case $argument in
    --force) force=--force ;;
    -h | --help)
      recipe=''
      break
      ;;
    -*)
      echo "error: '$argument' is not of the form key=value" >&2
      exit 2
      ;;
    *) if [[ -z $recipe ]]; then recipe=$argument; else overrides+=("$argument"); fi ;;
  esac
done
if [[ -z $recipe ]]; then
  sed -n '2,10s/^# \{0,1\}//p' "$here/iter.sh"
  echo "Recipes: $(cd "$here/recipes" && ls | xargs)"
  exit 2
fi
set -- ${overrides[@]+"${overrides[@]}"}
recipe=${recipe%/dice.yaml}
if [[ -e $recipe/dice.yaml ]]; then recipe=$(cd "$recipe" && pwd); fi # the user's own folder
source "$here/pipeline.sh"
export DICE_IN_LOOP=1
trap 'exit 130' INT # without it bash goes on after Ctrl-C if the command that it waits for caught the signal

dice start "$recipe" "$@" $force # refuses unknown recipes, keys and values, on all nodes alike
resolved=$(dice resolve "$recipe" "$@")
rounds=${resolved%% *} run=${resolved#* }

exec 9<>"$run/.lock" # stays open, so the run is locked until this loop ends
export DICE_LOCK_FD=9
dice hold "$run" "$recipe" "$@"
if [[ ${DICE_SHARE:-} ]]; then dice share "$run"; fi # takes over what another run has done alike
dice train_rm "$run" $force # trains a reward model where score.reward_model=train
report() { dice report "$run" --in_loop "$@"; }
trap 'if (($? == 3)); then report --quick; fi' EXIT # a gate is closed: the report says why
dice agree "$run" 0 $force # how often the reward agrees with evaluate.preferences, before GPU hours are spent
for ((round = 1; round <= rounds; round++)); do
  echo "round $round"
  pipeline
  dice agree "$run" "$round" $force
  report --quick
done
echo "evaluation"
if [[ ${DICE_SHARE:-} ]]; then dice share "$run"; fi
dice evaluate "$run" $force
report
dice places "$run"
