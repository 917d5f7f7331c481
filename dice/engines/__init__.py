"""Engines: token ids in, sampled responses out.

An engine is a module with a `Sampler` (below). `hf` runs wherever transformers does, `vllm` where
vLLM is installed. `fake` needs no model: it samples, scores and trains in no time, for tests.
"""

import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from dice.recipe import Generate


@dataclass(frozen=True)
class Request:
    """A prompt to answer K times; sample i uses the seed `seed + i`."""

    prompt_id: str
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Sampled:
    """One answer: its token ids, the stop token included, and "stop" or "length"."""

    prompt_id: str
    sample: int
    response_ids: list[int]
    finish_reason: str


class Sampler(Protocol):
    """One model, loaded once."""

    max_model_len: int  # tokens of prompt plus response that fit
    vocabulary: int  # token ids below this have an embedding
    takes_stream: bool  # whether to hand over all requests as one stream, or each shard by itself
    options: Generate  # how to sample: may be another temperature, top_p, ... from one `sample` to the next

    def __init__(self, model: str, stop_ids: list[int], options: Generate, dtype: str) -> None:
        """Loads a model. Raises BadInput, in one line, where it or an option can't be used.

        A response ends at one of `stop_ids` or of the end tokens of the model's generation config.
        """
        ...

    def sample(self, requests: Iterable[Request]) -> Iterator[Sampled]:
        """K answers for each request, in any order. Every prompt is shorter than max_model_len."""
        ...


def resolve_engine(name: str) -> str:
    """`auto` is vllm where it is installed, else hf."""
    if name != "auto":
        return name
    return "vllm" if importlib.util.find_spec("vllm") else "hf"


def load_sampler(engine: str) -> type[Sampler]:
    """The sampler class of an engine; its libraries are imported here."""
    return importlib.import_module(f"dice.engines.{resolve_engine(engine)}").Sampler


def load_scorer(engine: str, **options: Any) -> Any:
    """The scorer that goes with an engine: log-probs by transformers, unless it is `fake`.

    `options` are those of `dice.logprobs.Options`.
    """
    module = importlib.import_module("dice.engines.fake" if engine == "fake" else "dice.logprobs")
    return module.Scorer(module.Options(**options))


def load_reward_model(engine: str, name: str, template: str, **options: Any) -> Any:
    """A reward model as `dice.scalar_model.RewardModel`; with `fake`, one that needs no weights.

    `options` are those of `dice.logprobs.Options`.
    """
    if engine == "fake":
        return importlib.import_module("dice.engines.fake").RewardModel(name)
    options_of = importlib.import_module("dice.logprobs").Options(**options)
    return importlib.import_module("dice.scalar_model").RewardModel(name, template, options_of)


def load_chat(engine: str, model: str, template: str) -> Any:
    """The tokenizer and template that go with an engine, as `dice.chat.Chat`."""
    module = importlib.import_module("dice.engines.fake" if engine == "fake" else "dice.chat")
    return module.load_chat(model, template)
