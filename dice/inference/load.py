"""The samplers, scorers and tokenizers that go with an engine; libraries are imported when asked for."""

import importlib
import importlib.util
from typing import Any

from dice.inference.sampler import Sampler


def resolve_engine(name: str) -> str:
    """`auto` is vllm where it is installed, else hf."""
    if name != "auto":
        return name
    return "vllm" if importlib.util.find_spec("vllm") else "hf"


def load_sampler(engine: str) -> type[Sampler]:
    """The sampler class of an engine; its libraries are imported here."""
    return importlib.import_module(f"dice.inference.{resolve_engine(engine)}").Sampler


def load_scorer(engine: str, **options: Any) -> Any:
    """The scorer that goes with an engine: log-probs by transformers, unless it is `fake`.

    `options` are those of `dice.inference.scorer.Options`.
    """
    module = importlib.import_module("dice.inference.fake" if engine == "fake" else "dice.inference.scorer")
    return module.Scorer(module.Options(**options))


def load_reward_model(engine: str, name: str, template: str, **options: Any) -> Any:
    """A reward model as `dice.inference.reward_model.RewardModel`; with `fake`, one that needs no weights.

    `options` are those of `dice.inference.scorer.Options`.
    """
    if engine == "fake":
        return importlib.import_module("dice.inference.fake").RewardModel(name)
    options_of = importlib.import_module("dice.inference.scorer").Options(**options)
    return importlib.import_module("dice.inference.reward_model").RewardModel(name, template, options_of)


def load_chat(engine: str, model: str, template: str) -> Any:
    """The tokenizer and template that go with an engine, as `dice.models.chat_template.Chat`."""
    module = importlib.import_module(
        "dice.inference.fake" if engine == "fake" else "dice.models.chat_template"
    )
    return module.load_chat(model, template)
