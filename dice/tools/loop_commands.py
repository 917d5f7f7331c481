"""The commands that iter.sh runs: one for each stage, and what stands around them."""

from dice.launch.console import shown
from dice.recipe.load import load_recipe
from dice.run.manifests import Manifest
from dice.run.run import Run, open_run, open_to_work


class ForTheLoop:
    """Commands that iter.sh runs for you, as it does score, evaluate and report:"""

    def start(self, recipe: str, *overrides: str, force: bool = False) -> None:
        """Check a recipe, make what it needs, write its run's recipe.yaml."""
        from dice.stages.prepare import start

        start(recipe, overrides, force)

    def resolve(self, recipe: str, *overrides: str) -> str:
        """Print a recipe's number of rounds and its run's folder."""
        loaded = load_recipe(recipe, overrides)
        return f"{loaded.rounds} {shown(loaded.run_dir)}"

    def hold(self, run: str, recipe: str, *overrides: str) -> None:
        """Lock a run for the loop that this process belongs to."""
        from dice.stages.prepare import hold

        hold(open_run(run), recipe, overrides)

    def share(self, run: str) -> None:
        """Take over what other runs beside this one have done alike."""
        from dice.tools import reuse

        reuse.reuse(open_run(run))

    def train_rm(self, run: str, *, force: bool = False) -> None:
        """Train the reward model, where score.reward_model is train."""
        run_one("train_rm", open_to_work(run), 0, force)

    def generate(self, run: str, round: int, *, force: bool = False) -> None:
        """Sample K responses to each prompt from the round's policy."""
        run_one("generate", open_to_work(run), round, force)

    def pair(self, run: str, round: int, *, force: bool = False) -> None:
        """Balance lengths, pair best and worst, mix in offline pairs."""
        run_one("pair", open_to_work(run), round, force)

    def train(self, run: str, round: int, *, force: bool = False) -> None:
        """Train the round's model by DPO, with LLaMA-Factory."""
        run_one("train", open_to_work(run), round, force)

    def agree(self, run: str, round: int, *, force: bool = False) -> None:
        """Compare rewards after a round (0: before all) with labels."""
        run_one("agree", open_to_work(run), round, force)

    def places(self, run: str) -> None:
        """Print where a run's models, data sets and logs lie."""
        from dice.tools import status

        status.show_paths(open_run(run))


def run_one(name: str, run: Run, round: int, force: bool) -> Manifest | None:
    """Run a stage of a round, unless it is done: `run_stage`, imported where it is needed."""
    from dice.stages.order import run_stage

    return run_stage(name, run, round, force)
