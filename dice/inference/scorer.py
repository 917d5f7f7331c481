"""Log-probs of responses under models, in nats: exact, and close to the speed limit.

    logp(y | x) = sum over the tokens y_t of a response of log pi(y_t | x, y_1 ... y_(t-1))

The implicit reward of DPO is the difference of two such sums, of policy and reference; a `Scorer` gives
their terms, token by token. It holds one model at a time. It finds out how the model can be read
(`dice.inference.exactness`), computes a prompt once for all of its responses (`dice.inference.packing`)
and logits of response tokens alone (`dice.inference.forward`), and halves the tokens of a forward pass
when the memory does not suffice.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from dice.errors import BadInput
from dice.inference import exactness
from dice.inference.forward import Budget, Found, Reader, SeparateRows, in_order
from dice.inference.packing import Rows
from dice.inference.positions import longest_beside_others
from dice.launch.devices import dtype_name
from dice.models.loading import Models, Options, device


class Scorer:
    """Gives log pi(response | prompt), token by token, of the model in use."""

    def __init__(self, options: Options) -> None:
        self.budget = Budget(options.batch_tokens)
        self.models = Models(options)
        autocast = options.autocast and dtype_name(options.dtype) == "bfloat16"
        self.precision = partial(torch.autocast, device().type, torch.bfloat16, autocast)
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
        with self.precision():
            self._reader = self._reader or exactness.best_reader(loaded)
        self.name = model

    def token_logps(
        self, rows: Rows, on_done: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        """Log-probs in nats, float32 (tokens of the response,), for each of N (prompt ids, response ids).

        `on_done` is called with 1 for every row that is done. Raises BadInput for a token that the model
        has no embedding of, for a row beyond its table of positions, and for an empty prompt.
        """
        self._check(rows)
        with self.precision():
            return in_order(self._read(rows), on_done)

    def _read(self, rows: Rows) -> Found:
        """(row, log-probs): in the reader's way as far as that is exact, longer rows whole."""
        reader, model = self._reader, self._reader.head.model
        limit = longest_beside_others(model)
        short = [row for row, (prompt, response) in enumerate(rows) if len(prompt) + len(response) <= limit]
        longer = sorted({*range(len(rows))} - {*short})
        whole = SeparateRows(model, reader.head.body, reader.attention)
        for way, part in ((reader, short), (whole, longer)):
            for number, logps in way.read([rows[row] for row in part], self.budget):
                yield part[number], logps

    def _check(self, rows: Rows) -> None:
        model, name = self._reader.head.model, f"model {self.name!r}"
        longest = exactness.position_limit(model)
        for prompt, response in rows:
            if len(prompt) + len(response) - 1 > longest:
                raise BadInput(
                    f"{name} has positions for {longest:,} tokens, a row has "
                    f"{len(prompt) + len(response):,}; lower score.cutoff_len"
                )
            if not prompt:
                raise BadInput("a prompt without tokens: a response's first token needs one before it")
        exactness.check_token_ids(model, name, (ids for row in rows for ids in row))
