"""A run's folder and recipe: where everything of a run lies, and which model is which."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from dice.errors import BadInput
from dice.launch import disk_errors
from dice.recipe.keys import Recipe
from dice.recipe.load import load_resolved, resolved_yaml
from dice.recipe.paths import is_function, resolve
from dice.recipe.seal import sealed
from dice.run import files
from dice.run.lock import locked

TRUST = "DICE_TRUST_RUN"  # 1: the user's word that a run is to be trusted


@dataclass(frozen=True)
class Run:
    """A run's folder and recipe: where everything of a run lies, and which model is which."""

    path: Path
    recipe: Recipe

    def round_dir(self, t: int) -> Path:
        return self.path / f"round-{t}"

    def model(self, t: int) -> str:
        """The model that round t ends with; 0 and -1 stand for the recipe's policy and reference."""
        if t > 0:
            return str(self.round_dir(t) / "model")
        return model_path(self.recipe.policy if t == 0 else self.recipe.reference)

    def policy(self, t: int) -> str:
        """The model that round t samples from and trains."""
        return self.model(self.ends(t)[0])

    def reference(self, t: int) -> str:
        """The other half of round t's implicit reward; by default what its policy was trained from."""
        return self.model(self.ends(t)[1])

    def ends(self, t: int) -> tuple[int, int]:
        """The rounds, as `model` takes them, that ended with the policy and the reference of round t.

        The mean reward of n rounds is (log pi_(t-1) - log pi_(t-1-n)) / n: the models between cancel out.
        """
        score, t = self.recipe.score, max(t, 1)
        return t - 1, t - 1 - (t if score.reference == "first" else min(score.average_rounds, t))

    def averaged(self, t: int) -> int:
        """Over how many rounds the reward of round t is a mean; 1 against a reference that is kept."""
        policy, reference = self.ends(t)
        return policy - reference if self.recipe.score.reference == "previous" else 1

    def reads(self, t: int) -> list[int]:
        """The rounds whose models read the responses of round t for implicit rewards, its policy's first."""
        before = self.ends(t - 1) if self.recipe.score.consistency and t > 1 else ()
        return list(dict.fromkeys((*self.ends(t), *before)))

    def given(self, t: int) -> dict[str, str]:
        """Which models of round t are the user's own: "policy" and "reference" -> key of the recipe."""
        keys, roles = {0: "policy", -1: "reference"}, ("policy", "reference")
        return {role: keys[end] for role, end in zip(roles, self.ends(t), strict=True) if end in keys}

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
            files.write_text(run.path / "recipe.yaml", sealed(resolved_yaml(recipe)))
    except OSError as error:
        if error.errno in disk_errors.NO_ROOM:
            raise
        raise BadInput(f"results_dir: {run.path} can't be written to ({error.strerror})") from None
    return run


def recipe_digest(recipe: Recipe) -> str:
    """What tells recipes apart, as a few hex digits."""
    return hashlib.sha256(resolved_yaml(recipe).encode()).hexdigest()[:12]


def is_trusted() -> bool:
    """Whether code that a run's recipe.yaml names may be run: iter.sh got that recipe, or TRUST is 1."""
    return "1" in (os.environ.get("DICE_IN_LOOP"), os.environ.get(TRUST))


def require_trust(run: Run, key: str, value: str) -> None:
    """Raises BadInput where code that a key of a run's recipe.yaml names would be run and is not trusted."""
    if not is_trusted():
        raise BadInput(
            f"{run.path / 'recipe.yaml'}: {key} is {value}: that is code, and a run may be anybody's; if you "
            f"trust this one, set {TRUST}=1 (iter.sh with a recipe of yours needs no such word)"
        )


def open_run(path: str | Path) -> Run:
    """The run in a folder, or of a name under results/. Raises BadInput where there is none."""
    for folder in (Path(path), resolve(str(path)), resolve("results") / str(path)):
        if (folder / "recipe.yaml").is_file():
            return Run(folder.absolute(), load_resolved(folder / "recipe.yaml"))
    raise BadInput(f"{path}: no run here (a run's folder has a recipe.yaml; `iter.sh` makes it)")


def open_to_work(path: str | Path) -> Run:
    """As `open_run`, for what loads the run's models: with code that it names only if the run is trusted."""
    run = open_run(path)
    if run.recipe.trust_remote_code:
        require_trust(run, "trust_remote_code", "true")
    if is_function(run.recipe.score.reward):
        require_trust(run, "score.reward", run.recipe.score.reward)
    return run
