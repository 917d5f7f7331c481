"""Rewards outside the loop: of any file of prompts and responses, from any source."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from dice.data.answers import read_answers
from dice.errors import BadInput, StageFailed, Unmade
from dice.inference.load import engine_named
from dice.launch.console import say
from dice.models import remote_code
from dice.models.checkpoint import check_model
from dice.recipe.keys import Recipe
from dice.recipe.load import load_recipe
from dice.rewards import check
from dice.rewards.score_answers import Result, elsewhere, score_answers
from dice.rewards.source import SOURCES, source_of
from dice.run import files
from dice.run.rows import Message, to_line
from dice.run.run import Run
from dice.run.stage import require
from dice.stages import train_reward_model
from dice.stages.checks import check_alike, check_two

NAMES = ("prompt_id", "sample", "n_chars", "n_tokens", "logp_policy", "logp_ref", "reward")
OWN = {*NAMES, "tokens", "token_rewards", "dropped"}  # columns that a file of scores has from here
OTHER = {f"score.reward={source}" for source in SOURCES if source != "implicit"}  # need no reference


def settings(recipe: str | None, overrides: Sequence[str]) -> Recipe:
    """The models, template and limits to score with: a recipe's, or those of `key=value` overrides.

    Raises BadInput where neither says what the models or the template are.
    """
    given = {override.partition("=")[0] for override in overrides}
    needed = ["policy", "template"] if OTHER.intersection(overrides) else ["policy", "reference", "template"]
    if not recipe and (missing := [key for key in needed if key not in given]):
        wanted = " ".join(f"{key}=..." for key in missing)
        raise BadInput(f"missing: {wanted}; or name a recipe that says so, as in --recipe=tiny")
    loaded = load_recipe(recipe or "llama3", overrides)  # of the latter nothing but defaults is used
    remote_code.allow(loaded.trust_remote_code)
    return loaded


def check_words(source: str, words: Sequence[str], force: bool) -> None:
    """Raises BadInput where a command line is not about a file and overrides."""
    if (Path(source) / "recipe.yaml").is_file():
        raise BadInput(f"{source} is a run; which round? python -m dice score {source} 1")
    if strange := [word for word in words if "=" not in word]:
        raise BadInput(f"{strange[0]!r} is neither a round of a run nor key=value")
    if force:
        raise BadInput("--force is for a round of a run; name another file with --output")


def score_all(
    recipe: Recipe, answered: Sequence[tuple[list[Message], list[str]]], per_token: bool = False
) -> list[list[Result]]:
    """The rewards of some responses to each of some prompts, in their order.

    Raises BadInput where models or texts can't be used, StageFailed where a worker broke.
    """
    if per_token and recipe.score.reward != "implicit":
        raise BadInput(f"only implicit rewards are sums over tokens, not {recipe.score.reward} ones")
    run = Run(recipe.run_dir, recipe)
    _check(run)
    with _workplace() as folder:
        return score_answers(elsewhere(run, folder), answered, per_token)


def _check(run: Run) -> None:
    """Raises BadInput where what a recipe's rewards come from is not there, or can't tell answers apart."""
    recipe = run.recipe
    if train_reward_model.is_wanted(recipe):
        require(train_reward_model.STAGE, run, 0)
    if not engine_named(recipe.generate.engine).reads_models:
        return
    check.examine(recipe)
    check_model("policy", recipe.policy)
    check_two(recipe)
    told = check_alike(recipe)
    if isinstance(told, Unmade):
        say(told, mark="!")


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """A folder for the workers' files; it stays where one of them broke, for the log is in it."""
    folder = Path(tempfile.mkdtemp(prefix="dice-score-"))
    try:
        yield folder
    except StageFailed:
        raise
    except BaseException:
        shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def score_file(
    name: str, recipe: str | None, overrides: Sequence[str], output: str | None, per_token: bool
) -> None:
    """Write the rows of a file or registered data set with the rewards of their responses.

    A row with several responses becomes several. Raises BadInput where the output exists already.
    """
    target = Path(output or f"{Path(name).stem}.scores.jsonl")
    if target.exists():
        raise BadInput(f"{target} exists already; name another file with --output")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        files.write_text(target, "")  # found out now, not after hours
        target.unlink()
    except OSError as error:
        raise BadInput(f"--output: {target} can't be written ({error.strerror})") from None
    loaded = settings(recipe, overrides)
    answers, dropped = read_answers(name, loaded.dataset_dir)
    results = score_all(loaded, [(answer.messages, answer.responses) for answer in answers], per_token)
    rows, rewards = [], []
    for answer, row in zip(answers, results, strict=True):
        for text, result in zip(answer.responses, row, strict=True):
            there = len(answer.responses) == 1 and text in answer.row.values()
            which = {} if there else {"response": text}
            rows.append({**_others(answer.row), **which, **_columns(result)})
            if result.score:
                rewards.append(result.score.reward)
            else:
                dropped[result.reason] += 1
    files.write_text(target, map(to_line, rows))
    source = source_of(loaded)
    mean = f", {sum(rewards) / len(rewards):+.2f} {source.unit} on average" if rewards else ""
    say(f"score     {len(rewards):,} {source.title}{mean} in {target}", mark="+")
    for reason, count in dropped.items():
        say(f"          not scored: {count:,} {reason}", mark="!")


def _others(row: dict[str, object]) -> dict[str, object]:
    """A row's columns, without those of an earlier scoring."""
    was_scored = "reward" in row and not {"logp_policy", "dropped"}.isdisjoint(row)
    return {name: value for name, value in row.items() if not (was_scored and name in OWN)}


def _columns(result: Result) -> dict[str, object]:
    if result.score is None:
        return {"reward": None, "dropped": result.reason}
    columns = {name: getattr(result.score, name) for name in NAMES}
    if result.tokens:
        columns |= {"tokens": result.tokens.tokens, "token_rewards": result.tokens.token_rewards}
    return columns
