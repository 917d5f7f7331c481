"""Log-probs against one row at a time in float64."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from dice import logprobs
from dice.logprobs import Scorer, batches, token_logps


def by_hand(model_path, prompt, response):
    """Sum of log p(response token | everything before it), float64, one row, no padding."""
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64).eval()
    with torch.no_grad():
        logps = model(torch.tensor([prompt + response])).logits[0].log_softmax(-1)
    start = len(prompt)
    return sum(float(logps[start + i - 1, token]) for i, token in enumerate(response))


def some_rows(count=9):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, (count, 2))
    return [(rng.integers(5, 500, p).tolist(), rng.integers(5, 500, r).tolist()) for p, r in lengths]


def test_sums_equal_float64_row_by_row(random_model):
    rows = some_rows()
    found = Scorer(str(random_model), "float32", 128).logps(rows)
    expected = [by_hand(random_model, *row) for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("budget", "chunk"), [(1, 4096), (100, 7), (100_000, 4096)])
def test_the_budget_the_chunk_and_the_order_do_not_matter(random_model, monkeypatch, budget, chunk):
    rows = some_rows()
    expected = Scorer(str(random_model), "float32", 128).logps(rows)
    monkeypatch.setattr(logprobs, "SOFTMAX_ROWS", chunk)
    counted = []
    found = Scorer(str(random_model), "float32", budget).logps(rows[::-1], counted.append)[::-1]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert sum(counted) == len(rows)


def test_token_logps_by_hand():
    """Logits log 1, log 3 over two tokens are probabilities 1/4 and 3/4."""
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    found = token_logps(logits, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([np.log(0.25), np.log(0.75)], abs=1e-6)


def test_batches_hold_similar_lengths_within_the_budget():
    lengths = [5, 100, 7, 6, 99]
    made = list(batches(lengths, 200))
    assert made == [[1, 4], [2, 3, 0]]
    assert list(batches([300, 5], 200)) == [[0], [1]]  # too long for the budget: alone
    assert list(batches([], 200)) == []
