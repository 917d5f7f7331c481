"""Log-probs of responses under models, in nats: exact, and close to the speed limit.

A scorer holds one model at a time. It finds out how the model can be read (`dice.inference.exactness`),
how many tokens fit into the memory (an out-of-memory error halves them), and computes log-probs of
response tokens alone (`dice.inference.forward`), prompts once for all of their responses
(`dice.inference.packing`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dice.errors import BadInput
from dice.inference.exactness import best_reader
from dice.inference.families import alike_up_to, forget_lengths, position_limit
from dice.inference.forward import Budget, Reader, SeparateRows
from dice.inference.packing import Rows
from dice.models.loading import Models, device

# Tokens of a forward pass where the recipe leaves them to us. More would not be faster.
TOKENS_ON_CPU, TOKENS = 640, 65536


@dataclass(frozen=True)
class Options:
    """How models are loaded and read; the recipe's keys of the same names."""

    dtype: str = "auto"
    attn_implementation: str = "auto"
    quantization_bit: int | None = None
    batch_tokens: int | str = "auto"


class Scorer:
    """Gives log pi(response | prompt), token by token, of the model in use."""

    def __init__(self, options: Options) -> None:
        tokens = TOKENS_ON_CPU if device().type == "cpu" else TOKENS
        self.budget = Budget(tokens if options.batch_tokens == "auto" else int(options.batch_tokens))
        self.models = Models(options.dtype, options.attn_implementation, options.quantization_bit)
        self.name = ""
        self._reader: Reader | None = None

    def use(self, model: str) -> None:
        """Make `model`, a folder or a Hub id, the one in use; the one before is given up.

        Raises BadInput where it can't be loaded or read.
        """
        if model == self.name:
            return
        self.name = ""
        if not self.models.holds(model):
            self._reader = None  # or it would keep the model before in memory
        loaded = self.models.use(model)
        self._reader = self._reader or best_reader(loaded)
        self.name = model

    def token_logps(
        self, rows: Rows, on_done: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        """Float32 log-probs of every response's tokens, of N (prompt ids, response ids) pairs.

        `on_done` is told the number of rows that are done, as they get done.
        Raises BadInput for a token that the model has no embedding of, for a row beyond its table of
        positions, and for an empty prompt.
        """
        self._check(rows)
        model = self._reader.head.model
        limit = alike_up_to(model)
        lengths = [len(prompt) + len(response) for prompt, response in rows]
        together = [row for row, length in enumerate(lengths) if length <= limit]
        found: dict[int, np.ndarray] = {}
        for row, logps in self._reader.read(rows, together, self.budget):
            found[row] = logps
            on_done(1)
        by_itself = SeparateRows(model, self._reader.head.body, self._reader.attention)
        for row in sorted(set(range(len(rows))) - set(together)):
            ((_, found[row]),) = by_itself.read(rows, [row], Budget(1))
            forget_lengths(model)
            on_done(1)
        return [found[row] for row in range(len(rows))]

    def _check(self, rows: Rows) -> None:
        model = self._reader.head.model
        known, longest = model.get_input_embeddings().weight.shape[0], position_limit(model)
        for prompt, response in rows:
            if len(prompt) + len(response) - 1 > longest:
                raise BadInput(
                    f"model {self.name!r} has positions for {longest:,} tokens, a row has "
                    f"{len(prompt) + len(response):,}; lower score.cutoff_len"
                )
            if not prompt:
                raise BadInput("a prompt without tokens: a response's first token needs one before it")
            if (highest := max(max(prompt), max(response, default=0))) >= known:
                raise BadInput(
                    f"model {self.name!r} has embeddings for token ids below {known:,}; the tokenizer "
                    f"gave id {highest:,}: it is not this model's"
                )
