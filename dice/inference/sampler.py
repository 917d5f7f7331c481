"""Engines: token ids in, sampled responses out.

The engines are listed in `dice/inference/load.py`; each has a `Sampler` (below). `hf` runs wherever
transformers does, `vllm` where vLLM is installed. `fake` needs no model, for tests.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from dice.recipe.groups import Generate


@dataclass(frozen=True)
class Request:
    """A prompt to answer K times; sample i uses the seed `seed + i`."""

    prompt_id: str
    prompt_ids: list[int]
    seed: int


@dataclass(frozen=True)
class Sampled:
    """One answer: its token ids, the stop token included, and "stop" or "length".

    `logps` are the tokens' log-probs under the model, before temperature and top_p, in nats.
    """

    prompt_id: str
    sample: int
    response_ids: list[int]
    finish_reason: str
    logps: list[float]


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
