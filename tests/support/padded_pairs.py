"""Batches of pairs as LLaMA-Factory pads them, and how a model reads them by itself."""

import numpy as np
import torch
from model_families import VOCABULARY

from dice.models.reference_table import IGNORED

NAMES = ("input_ids", "labels", "attention_mask")


def batch_of(rows):
    """Rows (prompt, response), chosen first and then rejected, as LLaMA-Factory pads them."""
    longest = max(len(prompt + response) for prompt, response in rows)
    batch = {name: torch.zeros(len(rows), longest, dtype=torch.long) for name in NAMES}
    batch["labels"].fill_(IGNORED)
    for row, (prompt, response) in enumerate(rows):
        end = len(prompt + response)
        batch["input_ids"][row, :end] = torch.tensor(prompt + response)
        batch["labels"][row, len(prompt) : end] = torch.tensor(response)
        batch["attention_mask"][row, :end] = 1
    return batch


def some_pairs(lengths):
    """A batch of pairs, of each the tokens of prompt, chosen and rejected."""
    rng = np.random.default_rng(0)
    rows = [[rng.integers(3, VOCABULARY, n).tolist() for n in pair] for pair in lengths]
    return batch_of([(prompt, chosen) for prompt, chosen, _ in rows] + [(row[0], row[2]) for row in rows])


def stock(model, batch):
    """The responses' log-probs, summed, and the means of their logits, by the model itself."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    counted = labels != IGNORED
    logps = logits.log_softmax(-1).gather(2, labels.where(counted, 0)[..., None]).squeeze(2)
    means = (logits.mean(-1) * counted).sum(1) / counted.sum(1)
    return (logps * counted).sum(1), means
