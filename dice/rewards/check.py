"""What of a reward source can be known to be wrong before round 1, without loading a model."""

from typing import Any

from dice.errors import BadInput, spelled
from dice.models import llamafactory
from dice.models.checkpoint import check_model, downloaded
from dice.recipe.keys import Recipe
from dice.recipe.paths import is_function, resolve
from dice.recipe.train_args import MANAGED_TRAIN_ARGS, refusal
from dice.rewards import judge, judge_server


def examine(recipe: Recipe) -> str:
    """Says what the rewards come from. Raises BadInput where they can't."""
    score = recipe.score
    if score.reward == "reward_model" and score.reward_model == "train":
        _check_args(recipe)
        return f"a reward model, to be trained on {recipe.replay.dataset}"
    if score.reward == "reward_model":
        folder = resolve(score.reward_model)
        folder = folder if folder.is_dir() else downloaded(score.reward_model)
        is_causal = folder and (folder / "value_head.safetensors").is_file()
        check_model("score.reward_model", score.reward_model, None if is_causal else no_classifier)
        return f"reward model {score.reward_model}"
    if score.reward == "judge":
        return _examine_judge(recipe)
    return f"rewards of {score.reward}" if is_function(score.reward) else f"{score.reward} rewards"


def models(recipe: Recipe) -> dict[str, str]:
    """Models that are only there for the rewards, by the key that names them."""
    score = recipe.score
    key = {"reward_model": "reward_model", "judge": "judge"}.get(score.reward)
    name = getattr(score, key) if key else None
    return {f"score.{key}": name} if name not in (None, "train", "policy") else {}


def no_classifier(config: dict[str, Any]) -> str | None:
    """Why a model is no reward model, by its config.json, in words that follow its name."""
    names = config.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in names):
        said = ", ".join(names) or f"model_type {config['model_type']}"
        return (
            f"is no reward model: its config.json says {said}, and there is no value_head.safetensors; "
            "DICE reads models for sequence classification, and what LLaMA-Factory's stage rm writes"
        )
    labels = len(config.get("id2label") or range(2))  # two is what transformers leaves out
    return None if labels == 1 else f"has {labels} labels; a model that gives rewards has a single one"


def _examine_judge(recipe: Recipe) -> str:
    name = recipe.score.judge
    judge.prompt_of(recipe)
    if name == "policy":
        return "the policy as its own judge"
    if judge.is_local(name):
        check_model("score.judge", name)
        return f"judge {name}, sampled by {recipe.generate.engine}"
    if resolve(name.partition("/")[0]).exists():  # a path, and no model's name
        raise BadInput(f"score.judge: {resolve(name)} does not exist")
    judge_server.check()
    return f"judge {name}, behind a server"


def _check_args(recipe: Recipe) -> None:
    args = recipe.score.reward_args
    for name in sorted(MANAGED_TRAIN_ARGS & args.keys()):
        raise BadInput(f"score.reward_args: {name} follows from the rest of the recipe")
    for name, value in args.items():
        if reason := refusal(name, value):
            raise BadInput(f"score.reward_args: {name} can't be {spelled(value)}: {reason}")
    for _, wrong in llamafactory.wrong_arguments(args, "score.reward_args"):
        raise BadInput(wrong)
