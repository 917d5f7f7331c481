#!/usr/bin/env bash
# The paper's questions as a grid of runs: where rewards come from, length balance, replay, rounds.
#
#   bash scripts/run_dice/ablate.sh tiny                             27 runs; --dry says how long
#   bash scripts/run_dice/ablate.sh tiny --dry                       what would run, and for how long
#   bash scripts/run_dice/ablate.sh tiny seeds=1 axes=gamma:1        a part of it
#   bash scripts/run_dice/ablate.sh tiny train.learning_rate=1e-5 run=faster
#
# Any key of the recipe can be overridden; seeds, axes (reward, balance, gamma; docs/ablation.md has more) and
# axis_rounds belong to the grid. Every cell is an ordinary run under results/, which iter.sh makes. It takes over
# from the other runs what it has in common with them (DICE_SHARE). Finished work is skipped. A table and a plot
# come at the end.
set -euo pipefail
unset -f cd; unset CDPATH; set +o noclobber +o posix # of the user's shell: scripts begin alike everywhere
here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
recipe='' dry='' force='' words=()
for word in "$@"; do
  case $word in
    --dry) dry=yes ;;
    --force) force=--force ;; # for iter.sh
    -h | --help)
      recipe=''
      break
      ;;
    -*)
      echo "error: '$word' is not of the form key=value" >&2
      exit 2
      ;;
    *) if [[ -z $recipe ]]; then recipe=${word%/dice.yaml}; else words+=("$word"); fi ;;
  esac
done
if [[ -z $recipe ]]; then
  sed -n '2,12s/^# \{0,1\}//p' "$here/ablate.sh"
  exit 2
fi
set -- ${words[@]+"${words[@]}"}
if [[ -e $recipe/dice.yaml ]]; then recipe=$(cd "$recipe" && pwd); fi # the user's own folder
source "$here/../env.sh"

dice ablate "$recipe" "$@" --plan # refuses unknown recipes, keys and values
if [[ $dry ]]; then exit; fi
cells=$(dice ablate "$recipe" "$@" --cells)
trap 'exit 130' INT # Ctrl-C ends the whole grid, not only its current run
while IFS=$'\t' read -r -a cell; do
  if ((${#cell[@]} == 0)); then continue; fi # all runs are done
  # A run that fails leaves a gap in the table, and the next run begins.
  DICE_SHARE=yes bash "$here/iter.sh" "$recipe" "${cell[@]}" $force </dev/null || echo "failed: ${cell[0]}" >&2
done <<<"$cells"
dice ablate "$recipe" "$@"
