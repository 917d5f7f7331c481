"""Forward passes: the log-probs of response tokens under one loaded model, and of no others.

Two ways to read rows. `SharedPrompts` computes a prompt once for all of its responses, in packs
without padding (`dice.inference.packing`). `SeparateRows` takes whole rows, padded, with the model's own
attention. `dice.inference.exactness` tells which of them a model can be read by.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from dice.errors import BadInput
from dice.inference.packed_attention import NAME, Attention, KeysValues, using
from dice.inference.packing import Pack, Rows, fill, group_by_prompt
from dice.models.loading import free_memory

# Logits are made in chunks of this many (16 MiB of float32 on CPUs, where caches are small, 512 MiB
# elsewhere), or of 128 tokens where that is more, so that the head's matrix product stays efficient.
LOGITS_ON_CPU, LOGITS, LEAST_TOKENS = 1 << 22, 1 << 27, 128

Result = TypeVar("Result")
Found = Iterator[tuple[int, np.ndarray]]  # (row, float32 log-probs of its response's tokens)


@dataclass
class Budget:
    """Tokens of one forward pass. What does not fit into the memory halves it, for good."""

    tokens: int

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


class Reader(Protocol):
    """Yields (row, log-probs of its response's tokens) for the rows of `indices`, in any order."""

    head: "Head"
    attention: str  # what transformers calls attn_implementation

    def read(self, rows: Rows, indices: Sequence[int], budget: Budget) -> Found: ...


class SeparateRows:
    """Each row with a prompt of its own, rows of similar length side by side."""

    def __init__(self, model: torch.nn.Module, body: torch.nn.Module, attention: str) -> None:
        self.head, self.attention = Head(model, body), attention

    def read(self, rows: Rows, indices: Sequence[int], budget: Budget) -> Found:
        lengths = [len(rows[index][0]) + len(rows[index][1]) for index in indices]
        left = [indices[i] for i in sorted(range(len(indices)), key=lambda i: -lengths[i])]
        while left:
            width = sum(map(len, rows[left[0]]))
            batch = left[: max(1, budget.tokens // width)]
            logps = budget.attempt(
                lambda batch=batch: self._forward([rows[i] for i in batch]), width * len(batch)
            )
            if logps is not None:
                left = left[len(batch) :]
                yield from zip(batch, _split(logps, [len(rows[i][1]) for i in batch]), strict=True)

    @torch.inference_mode()
    def _forward(self, rows: Rows) -> np.ndarray:
        """Log-probs of all response tokens of a right-padded batch, row after row."""
        set_attention(self.head.model, self.attention)
        device = self.head.model.device
        width = max(len(prompt) + len(response) for prompt, response in rows)
        ids, real = torch.zeros((2, len(rows), width), dtype=torch.long)
        predictors, targets = [], []
        for row, (prompt, response) in enumerate(rows):
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor(prompt + response)
            real[row, :end] = 1
            predictors += range(row * width + len(prompt) - 1, row * width + end - 1)
            targets += response
        output = self.head.body(input_ids=ids.to(device), attention_mask=real.to(device), use_cache=False)
        states = output.last_hidden_state.flatten(0, 1)
        return self.head.token_logps(output, states, predictors, targets)


@dataclass
class Carried:
    """What a pack takes from the one before: keys and values of the prompt, its last state."""

    keys_values: dict[torch.nn.Module, KeysValues] = field(default_factory=dict)
    last_state: torch.Tensor | None = None  # (1, hidden size)


class SharedPrompts:
    """Rows of one prompt share its computation. `windows` is every sliding window met so far."""

    def __init__(self, model: torch.nn.Module, body: torch.nn.Module, attention: str) -> None:
        self.head, self.attention = Head(model, body), attention
        self.windows: set[int | None] = set()

    def read(self, rows: Rows, indices: Sequence[int], budget: Budget) -> Found:
        groups = group_by_prompt(rows, indices)
        at, carried = (0, 0), Carried()
        while at[0] < len(groups):
            pack, behind = fill(groups, at, budget.tokens)
            done = budget.attempt(
                lambda pack=pack, carried=carried: self._forward(pack, carried), len(pack.ids)
            )
            if done is not None:
                (logps, carried), at = done, behind
                counts = [count for _, count in pack.rows]
                yield from zip([row for row, _ in pack.rows], _split(logps, counts), strict=True)

    @torch.inference_mode()
    def _forward(self, pack: Pack, carried: Carried) -> tuple[np.ndarray, Carried]:
        """Log-probs of the pack's targets, and what the next pack takes from this one."""
        set_attention(self.head.model, NAME)
        device = self.head.model.device
        layout = Attention(pack, self.attention, device, carried.keys_values)
        ids, positions = (torch.tensor([part], device=device) for part in (pack.ids, pack.positions))
        with using(layout):
            output = self.head.body(input_ids=ids, position_ids=positions, use_cache=False)
        self.windows |= layout.windows
        states = output.last_hidden_state[0]
        if pack.carried:
            states = torch.cat([carried.last_state, states])
        logps = self.head.token_logps(output, states, pack.predictors, pack.targets)
        return logps, Carried(layout.carry, states[[pack.carry_state]] if pack.carry else None)


class Head:
    """A causal LM cut in two: its body, and what makes logits of the body's last hidden states.

    The second half is the model's own forward, handed these states in place of its body's. So logits
    that a family scales (Cohere, Granite) or caps (Gemma 2) come out as it means them.
    """

    def __init__(self, model: torch.nn.Module, body: torch.nn.Module) -> None:
        self.model, self.body = model, body
        self._buffer: torch.Tensor | None = None

    def token_logps(
        self, output: Any, states: torch.Tensor, predictors: list[int], targets: list[int]
    ) -> np.ndarray:
        """log softmax(logits of state predictors[i])[targets[i]], float32 (N,), of states (S, H).

        `output` is what the body returned. Logits exist for a bounded number of tokens at a time.
        """
        if not targets:  # a prompt alone
            return np.empty(0, np.float32)
        vocabulary = self.model.config.get_text_config().vocab_size
        logits = LOGITS_ON_CPU if states.device.type == "cpu" else LOGITS
        size = max(LEAST_TOKENS, logits // vocabulary)
        chosen, wanted = (torch.tensor(part, device=states.device) for part in (predictors, targets))
        parts = zip(chosen.split(size), wanted.split(size), strict=True)
        logps = [token_logps(self._logits(output, states[part]), ids) for part, ids in parts]
        return torch.cat(logps).cpu().numpy()

    def _logits(self, output: Any, states: torch.Tensor) -> torch.Tensor:
        """(N, V), in the model's precision, of states (N, H)."""
        output["last_hidden_state"] = states[None]
        placeholder = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        with _forward_replaced(self.body, lambda *_, **__: output), self._into_one_buffer(states):
            return self.model(input_ids=placeholder, use_cache=False).logits[0]

    @contextlib.contextmanager
    def _into_one_buffer(self, states: torch.Tensor) -> Iterator[None]:
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
        with _forward_replaced(head, lambda given: torch.mm(given[0], head.weight.T, out=target)[None]):
            yield


def token_logps(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target], at least float32 (N,), of logits (N, V) and token ids (N,).

    Logits in float32 are used up: the work is done in place.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    picked = logits.gather(1, targets[:, None]).squeeze(1)
    highest = logits.amax(1, keepdim=True)
    return picked - highest.squeeze(1) - logits.sub_(highest).exp_().sum(1).log()


@contextlib.contextmanager
def _forward_replaced(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # where a library has put its own wrapper
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def set_attention(model: torch.nn.Module, name: str) -> None:
    """Make a model use the attention of this name."""
    if model.config._attn_implementation != name:
        model.set_attn_implementation(name)


def _split(logps: np.ndarray, counts: list[int]) -> list[np.ndarray]:
    ends = np.cumsum(counts, dtype=int)
    return [logps[end - count : end] for end, count in zip(ends, counts, strict=True)]
