"""Sampling with Hugging Face transformers, on CPU, CUDA or Apple GPUs.

Prompts are batched by length, left-padded, and prefilled once; the K samples of a prompt share that
prefill. Each step feeds one token per unfinished row; rows that are done leave the batch.

A LoRA adapter is used on its base as it is, unmerged.

Every sample has its own random numbers, from its own seed, and a token is chosen by inverting the
cumulative distribution at one of them. So a sample depends on its seed and its probabilities alone.
Batches are formed within a shard, which makes a shard's bytes independent of the number of workers.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from transformers import DynamicCache

from dice.inference import decode_attention
from dice.inference.exactness import exact_attention, may_share_prompts
from dice.inference.forward import set_attention, token_logps
from dice.inference.positions import longest_beside_others, rows_apart
from dice.inference.sampler import Request, Sampled
from dice.models.loading import Models, Options, end_ids
from dice.recipe.groups import Generate

# The states that get logits. On CPUs this is no number: the slice that a number makes is not contiguous, and
# the product with the head's weights would copy them for every prompt.
LAST, LAST_ON_CPU = 1, torch.tensor([-1])
COLD = 1e-30  # a temperature below which logits over it are no numbers any more
CHUNK = 1 << 19  # logits from which tokens are taken at a time on CPUs, few enough for the caches


class Sampler:
    """Samples `samples` responses per request from one model."""

    takes_stream = False  # batches are formed within a shard

    def __init__(self, model: str, stop_ids: list[int], options: Generate, dtype: str) -> None:
        self.model = Models(Options(dtype)).use(model)
        set_attention(self.model, sampling_attention(self.model))
        self.options = options
        self.stop_ids = torch.tensor(sorted({*stop_ids, *end_ids(model)}), device=self.model.device)
        self.pad_id = stop_ids[0]
        self.vocabulary = self.model.get_input_embeddings().weight.shape[0]
        config = self.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None) or 1 << 30
        self.max_model_len = min(limit, options.max_model_len or limit)

    def sample(self, requests: Iterable[Request]) -> Iterator[Sampled]:
        """The requests' responses, K for each, in the order of batches."""
        left = sorted(requests, key=lambda r: (-len(r.prompt_ids), r.prompt_id))
        while left:
            tokens_per_row = len(left[0].prompt_ids) + self.options.max_new_tokens
            size = max(1, self.options.batch_tokens // tokens_per_row // self.options.samples)
            yield from self._sample_batch(left[:size])
            left = left[size:]

    @torch.inference_mode()
    def _sample_batch(self, requests: list[Request]) -> Iterator[Sampled]:
        k, options = self.options.samples, self.options
        limits = torch.tensor([self._room(request) for request in requests]).repeat_interleave(k)
        seeds = [request.seed + sample for request in requests for sample in range(k)]
        draws = torch.from_numpy(uniform_draws(seeds, int(limits.max())))
        tokens, logps = torch.full(draws.shape, self.pad_id), torch.zeros(draws.shape)
        stopped = torch.zeros(len(seeds), dtype=torch.bool)
        lengths = torch.zeros(len(seeds), dtype=torch.long)

        rows = torch.arange(len(seeds))  # the rows still in the batch
        step = _Step(self.model, requests, self.pad_id, k)
        for position in range(draws.shape[1]):
            chosen, logps[rows, position] = take(step.logits, draws[rows, position], options)
            tokens[rows, position] = chosen.cpu()
            lengths[rows] += 1
            stopped[rows] = torch.isin(chosen, self.stop_ids).cpu()
            going_on = ~stopped[rows] & (lengths[rows] < limits[rows])
            rows = rows[going_on]
            if len(rows) == 0:
                break
            step.feed(chosen, keep=going_on.to(chosen.device))

        for row in range(len(seeds)):
            ids, found = (values[row, : lengths[row]].tolist() for values in (tokens, logps))
            reason = "stop" if stopped[row] else "length"
            yield Sampled(requests[row // k].prompt_id, row % k, ids, reason, found)

    def _room(self, request: Request) -> int:
        return min(self.options.max_new_tokens, self.max_model_len - len(request.prompt_ids))


class _Step:
    """The state between two tokens: the KV cache, and the last token's logits, (rows, vocabulary).

    `ids` and `mask` are (rows, tokens so far), padded on the left.
    """

    def __init__(self, model: torch.nn.Module, requests: list[Request], pad_id: int, k: int) -> None:
        self.model, self.limit = model, longest_beside_others(model)
        longest = max(len(request.prompt_ids) for request in requests)
        ids = torch.full((len(requests), longest), pad_id)
        self.mask = torch.zeros((len(requests), longest), dtype=torch.long)
        for row, request in enumerate(requests):
            ids[row, longest - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            self.mask[row, longest - len(request.prompt_ids) :] = 1
        self.ids, self.mask = ids.to(model.device), self.mask.to(model.device)
        self._prefill()

        self.cache.batch_repeat_interleave(k)
        self.ids, self.mask = self.ids.repeat_interleave(k, 0), self.mask.repeat_interleave(k, 0)
        self.logits = self.logits.repeat_interleave(k, 0)

    def feed(self, chosen: torch.Tensor, keep: torch.Tensor) -> None:
        """Advance the rows of `keep` (a boolean mask) by their chosen tokens; drop the others."""
        if not keep.all():
            self.cache.batch_select_indices(keep.nonzero().squeeze(1))
            self.ids, self.mask, chosen = self.ids[keep], self.mask[keep], chosen[keep]
        self.ids = torch.cat([self.ids, chosen[:, None]], 1)
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=1)
        lengths = self.mask.sum(1)
        if (lengths == self.limit + 1).any():  # then the positions in a row's cache are not what they were
            self._prefill()
        else:
            self._forward(chosen[:, None], lengths[:, None] - 1)

    def _prefill(self) -> None:
        self.cache = DynamicCache(config=self.model.config)
        self._forward(self.ids, (self.mask.cumsum(1) - 1).clamp(min=0))

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> None:
        with rows_apart(self.model, self.mask.sum(1)):
            self.logits = self.model(
                input_ids=ids,
                attention_mask=self.mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=LAST_ON_CPU if ids.device.type == "cpu" else LAST,
            ).logits[:, -1]


def sampling_attention(model: torch.nn.Module) -> str:
    """The attention that is exact for this model; on CPUs one that is quick for one token at a time."""
    exact = exact_attention(model)
    if model.device.type == "cpu" and exact == "sdpa" and may_share_prompts(model):
        return decode_attention.NAME
    return exact


def uniform_draws(seeds: list[int], count: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (seeds, count): row i depends on seeds[i] alone."""
    return np.stack([np.random.Generator(np.random.Philox(seed)).random(count) for seed in seeds])


def take(logits: torch.Tensor, draws: torch.Tensor, options: Generate) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B,) by logits (B, V) and uniform draws (B,), and their log-probs (B,) in nats on the CPU."""
    rows = max(1, CHUNK // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    chosen, logps = [], []
    for some, drawn in zip(logits.split(rows), draws.split(rows), strict=True):
        chosen.append(choose(some, drawn, options.temperature, options.top_p))
        logps.append(token_logps(some, chosen[-1]))
    return torch.cat(chosen), torch.cat(logps).cpu()


def choose(logits: torch.Tensor, draws: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Token ids (B,) from logits (B, V) and uniform draws (B,), by inverse cumulative distribution.

    Temperature 0 is greedy, and so is one that is as good as 0. `top_p` below 1 keeps the smallest set of
    most probable tokens whose probabilities reach it.
    """
    if temperature < COLD:
        return logits.argmax(-1)
    probs = torch.softmax(logits.float() / temperature, -1)
    if top_p < 1:
        ranked, order = probs.sort(dim=-1, descending=True, stable=True)
        ranked[ranked.cumsum(-1) - ranked >= top_p] = 0
        probs = torch.zeros_like(probs).scatter_(-1, order, ranked)
    precise = torch.float32 if probs.device.type == "mps" else torch.float64
    cumulative = probs.cumsum(-1, dtype=precise)
    # The type first: an Apple GPU takes no float64 at all.
    targets = draws.to(cumulative.dtype).to(cumulative.device) * cumulative[:, -1]
    chosen = torch.searchsorted(cumulative, targets[:, None], right=True)
    return chosen.squeeze(1).clamp(max=logits.shape[-1] - 1)
