"""The engines that a recipe can name, and where their parts are. A part is imported when it is asked for."""

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from dice.inference.sampler import Sampler
from dice.launch import devices
from dice.recipe.keys import Recipe

FAKE = "dice.inference.fake"


@dataclass(frozen=True)
class Engine:
    """The modules that an engine's parts are in, each with the same names as the module given here."""

    sampler: str  # Sampler
    scorer: str = "dice.inference.scorer"  # Scorer, Options
    chat: str = "dice.models.chat_template"  # load_chat
    reward_model: str = "dice.inference.reward_model"  # RewardModel
    trainer: str = "dice.models.trainer"  # train, finished
    reads_models: bool = True  # whether policy, reference and template must be real ones
    frees_gpu: bool = True  # whether a process can load one model after the other


ENGINES = {
    "hf": Engine("dice.inference.hf"),
    "vllm": Engine("dice.inference.vllm", frees_gpu=False),
    "fake": Engine(FAKE, scorer=FAKE, chat=FAKE, reward_model=FAKE, trainer=FAKE, reads_models=False),
}


def resolve_engine(name: str) -> str:
    """`auto` is vllm where there is a GPU and vllm is installed, else hf, which is quicker on CPUs."""
    if name != "auto":
        return name
    return "vllm" if devices.gpu_count() and importlib.util.find_spec("vllm") else "hf"


def engine_named(name: str) -> Engine:
    """The engine that a recipe's `generate.engine` names."""
    return ENGINES[resolve_engine(name)]


def dtype_of(recipe: Recipe) -> dict[str, str]:
    """For a manifest: the precision that a recipe's models are sampled and scored in on this machine."""
    reads_models = engine_named(recipe.generate.engine).reads_models
    return {"dtype": devices.dtype_name(recipe.dtype)} if reads_models else {}


def load_sampler(engine: str) -> type[Sampler]:
    """The sampler class of an engine."""
    return importlib.import_module(engine_named(engine).sampler).Sampler


def load_scorer(engine: str, **options: Any) -> Any:
    """A `dice.inference.scorer.Scorer`, or the engine's own; `options` are those of `Options` there."""
    module = importlib.import_module(engine_named(engine).scorer)
    return module.Scorer(module.Options(**options))


def load_reward_model(engine: str, name: str, encoding: dict[str, Any], **options: Any) -> Any:
    """A `dice.inference.reward_model.RewardModel`, or the engine's own; `options` as for `load_scorer`."""
    parts = engine_named(engine)
    settings = importlib.import_module(parts.scorer).Options(**options)
    return importlib.import_module(parts.reward_model).RewardModel(name, encoding, settings)


def load_chat(engine: str, model: str, encoding: dict[str, Any]) -> Any:
    """A model's tokenizer with a template: a `dice.models.encoding.Chat`, or the engine's own.

    `encoding` is that of a recipe, `Recipe.encoding`.
    """
    return importlib.import_module(engine_named(engine).chat).load_chat(model, **encoding)


def load_trainer(engine: str) -> ModuleType:
    """The module that trains an engine's models, as `dice.models.trainer` does."""
    return importlib.import_module(engine_named(engine).trainer)
