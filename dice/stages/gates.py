"""Stops the loop where a figure of a round is out of the bounds that the recipe's gates set."""

from dice.errors import GateClosed
from dice.launch.console import say, shown
from dice.recipe.gates import WARN, failures, unknown
from dice.run.manifests import Manifest
from dice.run.run import Run


def check(run: Run, manifest: Manifest) -> None:
    """Raises GateClosed where a stage's figures fail a gate, or warns, where the recipe says so."""
    if manifest.stage == "pair" and (missing := unknown(run.recipe, manifest.round, manifest.figures)):
        say(f"{'':<10}gate: round {manifest.round} has no {', '.join(missing)} to judge it by", mark="!")
    if not (failed := failures(run.recipe, manifest.figures)):
        return
    told = f"gate: {'; '.join(failed)} ({manifest.stage} of round {manifest.round})"
    if WARN in run.recipe.gates:
        say(f"{'':<10}{told}", mark="!")
        return
    # A round's responses are of the model that the round before made; an agreement is of the round's own.
    last = max(manifest.round - (2 if manifest.stage == "pair" else 1), 0)
    best = f"that of round {last}" if last else "the one at the start"
    where = f"the best model so far is {best}: {run.model(last)}"
    raise GateClosed(f"{shown(run.path)}: {told}; {where}. To go on all the same, add warn to gates")
