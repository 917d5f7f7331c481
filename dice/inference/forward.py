"""Forward passes: the log-probs of response tokens under one loaded model, and of no others.

    logp_t = log softmax(logits of the token before t)[t],  in nats, for every token t of a response

Two readers compute it. `SharedPrompts` computes a prompt once for all its responses, in packs without
padding (`dice.inference.packing`). `SeparateRows` computes whole rows, padded, with the model's own
attention, for models that can't be read in packs. `dice.inference.exactness` says which one gives what
the model itself gives. Logits are made of states that predict a response's token and of no others, since
with a large vocabulary those of prompts would be most of the memory.

Shapes: B rows, L tokens of the longest one, T tokens of a pack, H hidden size, V vocabulary.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dice.errors import BadInput
from dice.inference.packed_attention import NAME, Attention, KeysValues, using
from dice.inference.packing import Pack, Rows, fill, group_by_prompt
from dice.inference.positions import rows_apart
from dice.models.loading import device, free_memory

# Tokens of a forward pass where the recipe leaves them to us. More would not be faster.
TOKENS_ON_CPU, TOKENS = 640, 65536
# Logits are made in chunks of this many (16 MiB of float32 on CPUs, where caches are small, 512 MiB
# elsewhere), or of 192 tokens where that is more, so that the head's matrix product stays efficient.
LOGITS_ON_CPU, LOGITS, LEAST_TOKENS = 1 << 22, 1 << 27, 192

Result = TypeVar("Result")
Found = Iterator[tuple[int, np.ndarray]]  # (row, float32 log-probs of its response's tokens)


class Budget:
    """The most tokens of one forward pass. A pass that does not fit into the memory halves it, for good."""

    def __init__(self, tokens: int | str) -> None:
        """`tokens` is a number, or "auto" for what is fast on this device."""
        auto = TOKENS_ON_CPU if device().type == "cpu" else TOKENS
        self.tokens = auto if tokens == "auto" else int(tokens)

    def attempt(self, forward: Callable[[], Result], tokens: int) -> Result | None:
        """What `forward` returns, or None where the memory did not suffice for its `tokens`.

        Raises BadInput where it does not even suffice for one prompt or response.
        """
        try:
            return forward()
        except torch.OutOfMemoryError:
            pass  # the tensors of the failed pass live until the exception is gone
        free_memory()
        if self.tokens == 1:
            raise BadInput(
                f"the memory of the device does not suffice for {tokens:,} tokens, which can't be split; "
                "lower score.cutoff_len, or load the model in 4 bits (score.quantization_bit=4)"
            )
        self.tokens = max(1, min(self.tokens, tokens) // 2)
        print(f"out of memory with {tokens:,} tokens; going on with {self.tokens:,}", flush=True)
        return None


def in_batches(
    lengths: Sequence[int], budget: Budget, forward: Callable[[list[int]], Iterable[Result]]
) -> Iterator[tuple[int, Result]]:
    """(row, result) for every row, in padded batches within the budget; a row over it is one by itself.

    `lengths` are the rows' tokens. Rows of similar length stand side by side, the longest first.
    `forward` takes the indices of a batch's rows and gives a result for each.
    """
    left = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    while left:
        width = lengths[left[0]]
        batch = left[: max(1, budget.tokens // width)]
        results = budget.attempt(partial(forward, batch), width * len(batch))
        if results is not None:
            left = left[len(batch) :]
            yield from zip(batch, results, strict=True)


def in_order(results: Iterable[tuple[int, Result]], on_done: Callable[[int], None]) -> list[Result]:
    """The results of rows 0, 1, ..., which come in any order; `on_done` is called with 1 for each."""
    found = {}
    for row, result in results:
        found[row] = result
        on_done(1)
    return [found[row] for row in range(len(found))]


def padded(rows: Sequence[list[int]], padding: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (B, L), padded on the right, and the mask (B, L): 1 for a row's own tokens, else 0."""
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)
    mask = torch.arange(ids.shape[1]) < torch.tensor([[len(row)] for row in rows])
    return ids.to(device), mask.long().to(device)


class Reader:
    """One way to get log-probs out of a model.

    `attention` is what transformers calls attn_implementation. `windows` is every sliding window, in
    tokens, that the model has asked our own attention for.
    """

    def __init__(self, model: torch.nn.Module, body: torch.nn.Module, attention: str) -> None:
        self.head, self.attention = Head(model, body), attention
        self.windows: set[int | None] = set()

    def read(self, rows: Rows, budget: Budget) -> Found:
        """(row, log-probs of its response's tokens), in any order."""
        raise NotImplementedError


class SeparateRows(Reader):
    """Each row with a prompt of its own, rows of similar length side by side."""

    def read(self, rows: Rows, budget: Budget) -> Found:
        lengths = [len(prompt) + len(response) for prompt, response in rows]
        return in_batches(lengths, budget, lambda batch: self._forward([rows[row] for row in batch]))

    @torch.inference_mode()
    def _forward(self, rows: Rows) -> list[np.ndarray]:
        """Log-probs of the responses' tokens, row by row."""
        set_attention(self.head.model, self.attention)
        ids, mask = padded([prompt + response for prompt, response in rows], 0, self.head.model.device)
        predictors, targets = [], []
        for row, (prompt, response) in enumerate(rows):
            first = row * ids.shape[1] + len(prompt) - 1
            predictors += range(first, first + len(response))
            targets += response
        with rows_apart(self.head.model, mask.sum(1)):
            output = self.head.body(input_ids=ids, attention_mask=mask, use_cache=False)
        states = output.last_hidden_state.flatten(0, 1)
        logps = self.head.token_logps(output, states, predictors, targets)
        return np.split(logps, np.cumsum([len(response) for _, response in rows]))[:-1]


@dataclass
class Carried:
    """What a pack hands over to the next one: its last prompt's keys and values, and last state."""

    keys_values: KeysValues = field(default_factory=dict)
    last_state: Tensor | None = None  # (1, H)


class SharedPrompts(Reader):
    """Rows of one prompt share its computation."""

    def read(self, rows: Rows, budget: Budget) -> Found:
        groups = group_by_prompt(rows)
        at, carried = (0, 0), Carried()
        while at[0] < len(groups):
            pack, behind = fill(groups, at, budget.tokens)
            done = budget.attempt(partial(self._forward, pack, carried), len(pack.ids))
            if done is not None:
                (logps, carried), at = done, behind
                ends = np.cumsum([count for _, count in pack.rows])
                yield from zip([row for row, _ in pack.rows], np.split(logps, ends)[:-1], strict=True)

    @torch.inference_mode()
    def _forward(self, pack: Pack, carried: Carried) -> tuple[np.ndarray, Carried]:
        """Log-probs of the pack's targets, and what the next pack takes from this one."""
        set_attention(self.head.model, NAME)
        device = self.head.model.device
        joins = may_join(self.head.model)
        attention = Attention(pack, self.attention, device, carried.keys_values, joins)
        ids, positions = (torch.tensor([part], device=device) for part in (pack.ids, pack.positions))
        with using(attention):
            output = self.head.body(input_ids=ids, position_ids=positions, use_cache=False)
        self.windows |= attention.windows
        states = output.last_hidden_state[0]
        if pack.carried:
            states = torch.cat([carried.last_state, states])
        logps = self.head.token_logps(output, states, pack.predictors, pack.targets)
        return logps, Carried(attention.carry, states[[pack.carry_state]] if pack.carry else None)


class Head:
    """A causal LM cut in two: its body, and what makes logits of the body's last hidden states.

    The second half is the model's own forward, handed these states in place of its body's. So logits
    that a family scales (Cohere, Granite) or caps (Gemma 2) come out as that family means them.
    """

    def __init__(self, model: torch.nn.Module, body: torch.nn.Module) -> None:
        self.model, self.body = model, body
        self._buffer: Tensor | None = None

    def token_logps(
        self, output: Any, states: Tensor, predictors: list[int], targets: list[int]
    ) -> np.ndarray:
        """log softmax(logits of state predictors[i])[targets[i]], float32 (N,), of states (S, H).

        `output` is what the body returned. Logits exist for a bounded number of tokens at a time.
        """
        if not targets:  # a prompt alone
            return np.empty(0, np.float32)
        size = chunk_size(self.model)
        chosen, wanted = (torch.tensor(part, device=states.device) for part in (predictors, targets))
        parts = zip(chosen.split(size), wanted.split(size), strict=True)
        logps = [token_logps(self._logits(output, states[part]), ids) for part, ids in parts]
        return torch.cat(logps).cpu().numpy()

    def _logits(self, output: Any, states: Tensor) -> Tensor:
        """(N, V), in the model's precision, of states (N, H)."""
        output["last_hidden_state"] = states[None]
        placeholder = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        with forward_replaced(self.body, lambda *_, **__: output), self._into_one_buffer(states):
            return self.model(input_ids=placeholder, use_cache=False).logits[0]

    @contextlib.contextmanager
    def _into_one_buffer(self, states: Tensor) -> Iterator[None]:
        """On CPUs, a plain head writes all its chunks to the same memory.

        Blocks of this size, taken and given back at every chunk, cut up the heap: the process would
        grow to several times of what it uses.
        """
        head = self.model.get_output_embeddings()
        if states.device.type != "cpu" or type(head) is not torch.nn.Linear or head.bias is not None:
            yield
            return
        if self._buffer is None or len(self._buffer) < len(states):
            self._buffer = head.weight.new_empty((len(states), len(head.weight)))
        target = self._buffer[: len(states)]
        product = partial(torch.mm, mat2=head.weight.T, out=target)
        with forward_replaced(head, lambda given: product(given[0].to(target.dtype))[None]):
            yield


def chunk_size(model: torch.nn.Module) -> int:
    """How many tokens have logits at a time."""
    logits = LOGITS_ON_CPU if device().type == "cpu" else LOGITS
    return max(LEAST_TOKENS, logits // model.config.get_text_config().vocab_size)


def token_logps(logits: Tensor, targets: Tensor) -> Tensor:
    """log softmax(logits)[target] in nats, at least float32 (N,), of logits (N, V) and token ids (N,).

    Float32 logits are overwritten: the work is done in place.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    picked = logits.gather(1, targets[:, None]).squeeze(1)
    highest = logits.amax(1, keepdim=True)
    return picked - highest.squeeze(1) - logits.sub_(highest).exp_().sum(1).log()


@contextlib.contextmanager
def forward_replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # where a library has put its own wrapper
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def is_precise(model: torch.nn.Module) -> bool:
    """Whether a model multiplies matrices in single precision or more here."""
    precise = model.get_output_embeddings().weight.dtype in (torch.float32, torch.float64)
    return precise and not torch.is_autocast_enabled(device().type)


def may_join(model: torch.nn.Module) -> bool:
    """Whether responses may share a block of attention: not in half precision on CPUs.

    Matrix products there round a token's states alike whatever stands beside it. So with attention apart,
    too, log-probs are the same to the last bit in packs of any size, in scoring and in training.
    """
    return device().type != "cpu" or is_precise(model)


def set_attention(model: torch.nn.Module, name: str) -> None:
    """Make a model use the attention of this name."""
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)
