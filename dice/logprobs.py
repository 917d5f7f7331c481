"""Log-probs of responses under a model, in nats.

Rows are sorted by length into batches under a token budget, so that little is padding, and only
response tokens go through the softmax, in float32, a bounded number at a time.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from dice.models import load_model

Rows = Sequence[tuple[list[int], list[int]]]  # (prompt ids, response ids)

SOFTMAX_ROWS = 4096  # response tokens whose (tokens, vocabulary) float32 logits exist at once


class Scorer:
    """One model, loaded once, giving log pi(response | prompt)."""

    def __init__(self, model: str, dtype: str, batch_tokens: int) -> None:
        self.model = load_model(model, dtype)
        self.batch_tokens = batch_tokens

    def logps(self, rows: Rows, on_done: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """Summed response log-probs (N,), float64, of N (prompt ids, response ids) pairs.

        `on_done` is told the number of rows after each batch.
        """
        sums = np.empty(len(rows))
        for batch in batches([len(prompt) + len(response) for prompt, response in rows], self.batch_tokens):
            sums[batch] = self._batch_sums([rows[index] for index in batch])
            on_done(len(batch))
        return sums

    @torch.inference_mode()
    def _batch_sums(self, rows: Rows) -> np.ndarray:
        """The sums of one batch, right-padded: row b's response is predicted by logits (b, t - 1)."""
        width = max(len(prompt) + len(response) for prompt, response in rows)
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        is_real = torch.zeros((len(rows), width), dtype=torch.long)
        is_response = torch.zeros((len(rows), width), dtype=torch.bool)
        for row, (prompt, response) in enumerate(rows):
            end = len(prompt) + len(response)
            ids[row, :end] = torch.tensor(prompt + response)
            is_real[row, :end] = 1
            is_response[row, len(prompt) : end] = True

        where = self.model.device
        logits = self.model(input_ids=ids.to(where), attention_mask=is_real.to(where), use_cache=False).logits
        row_of, position = is_response.nonzero(as_tuple=True)
        targets = ids[row_of, position].to(where)
        logps = torch.cat(
            [
                token_logps(logits[row_of[part], position[part] - 1], targets[part])
                for part in torch.arange(len(row_of)).split(SOFTMAX_ROWS)
            ]
        ).cpu()
        return torch.zeros(len(rows), dtype=torch.float64).index_add(0, row_of, logps.double()).numpy()


def token_logps(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log softmax(logits)[target], float32 (N,), of logits (N, V) and token ids (N,)."""
    logits = logits.float()
    picked = logits.gather(1, targets[:, None]).squeeze(1)
    return picked - logits.logsumexp(1)


def batches(lengths: list[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length: longest first, rows times longest at most `budget`.

    A row longer than the budget is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    start = 0
    while start < len(order):
        size = max(1, budget // lengths[order[start]])
        yield order[start : start + size]
        start += size
