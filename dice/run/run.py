"""A run's folder and recipe: where everything of a run lies, and which model is which."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from dice.errors import BadInput
from dice.launch import disk_errors
from dice.recipe.keys import Recipe, resolve
from dice.recipe.load import load_resolved, resolved_yaml
from dice.run import files
from dice.run.lock import locked


@dataclass(frozen=True)
class Run:
    """A run's folder and recipe: where everything of a run lies, and which model is which."""

    path: Path
    recipe: Recipe

    def round_dir(self, t: int) -> Path:
        return self.path / f"round-{t}"

    def model(self, t: int) -> str:
        """The model that round t ends with; before round 1 it is the policy that the run starts from."""
        return str(self.round_dir(t) / "model") if t > 0 else model_path(self.recipe.policy)

    def policy(self, t: int) -> str:
        """The model that round t samples from and trains."""
        return self.model(t - 1)

    def reference(self, t: int) -> str:
        """The model that round t's policy was trained from: the other half of its implicit reward."""
        return self.model(t - 2) if t > 1 else model_path(self.recipe.reference)

    def checked_round(self, t: object) -> int:
        """The number of a round, as a user gives it. Raises BadInput where the run has no such round."""
        if not isinstance(t, int) or not 1 <= t <= self.recipe.rounds:
            asked = "which round?" if t is None else f"there is no round {t};"
            raise BadInput(f"{asked} this run has rounds 1 to {self.recipe.rounds}")
        return t

    @property
    def reward_model_dir(self) -> Path:
        """The folder of the reward model that a run trains before round 1."""
        return self.path / "reward-model"

    def reward_model(self) -> str:
        """The reward model of the run: the one that it trains, a folder, or a Hub id."""
        name = self.recipe.score.reward_model
        return str(self.reward_model_dir / "model") if name == "train" else model_path(name)


def model_path(name: str) -> str:
    """A folder where there is one (relative to the repository), else a Hub id."""
    path = resolve(name)
    return str(path) if path.is_dir() else name


def create_run(recipe: Recipe) -> Run:
    """Write the resolved recipe; the run's folder exists from here on.

    Raises BadInput where it can't be made, or where another process works on the run.
    """
    run = Run(recipe.run_dir, recipe)
    try:
        run.path.mkdir(parents=True, exist_ok=True)
        with locked(run.path):
            files.remove_leftovers(run.path)
            files.write_text(run.path / "recipe.yaml", resolved_yaml(recipe))
    except OSError as error:
        if error.errno in disk_errors.NO_ROOM:
            raise
        raise BadInput(f"results_dir: {run.path} can't be written to ({error.strerror})") from None
    return run


def recipe_digest(recipe: Recipe) -> str:
    """What tells recipes apart, as a few hex digits."""
    return hashlib.sha256(resolved_yaml(recipe).encode()).hexdigest()[:12]


def open_run(path: str | Path) -> Run:
    """The run in a folder, or of a name under results/. Raises BadInput where there is none."""
    for folder in (Path(path), resolve(str(path)), resolve("results") / str(path)):
        if (folder / "recipe.yaml").is_file():
            return Run(folder.absolute(), load_resolved(folder / "recipe.yaml"))
    raise BadInput(f"{path}: no run here (a run's folder has a recipe.yaml; `iter.sh` makes it)")
