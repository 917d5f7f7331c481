"""Forward passes: what is fed, how much at a time, and what does not fit."""

import numpy as np
import pytest
import torch
from model_families import VOCABULARY, scorer_of, some_fast, some_rows, sums

from dice.errors import BadInput
from dice.inference import forward
from dice.inference.forward import Budget, token_logps


def test_a_prompt_is_computed_once(families):
    """Tokens fed: the prompt's once, of every response all but the last; in packs of the budget."""
    scorer = scorer_of(families("llama"), batch_tokens=20)
    fed = []
    body = scorer._reader.head.body
    body.register_forward_pre_hook(lambda module, args, kwargs: fed.append(kwargs), with_kwargs=True)
    rows = [(list(range(3, 33)), [5] * length) for length in (4, 9, 12, 1)]
    scorer.token_logps(rows)
    counted = [kwargs["input_ids"].numel() for kwargs in fed if kwargs.get("position_ids") is not None]
    assert sum(counted) == 30 + 3 + 8 + 11 + 0
    assert counted == [30, 11, 11]


@pytest.mark.slow
@pytest.mark.parametrize("name", some_fast(["llama", "mistral", "phi3-long", "llama-dynamic", "bloom"]))
@pytest.mark.parametrize("budget", [1, 30, 100_000])
def test_the_budget_the_chunk_and_the_order_do_not_matter(families, monkeypatch, name, budget):
    rows = some_rows()
    expected = sums(scorer_of(families(name), batch_tokens=200), rows)
    monkeypatch.setattr(forward, "LOGITS_ON_CPU", 7 * VOCABULARY)
    monkeypatch.setattr(forward, "LEAST_TOKENS", 1)
    scorer = scorer_of(families(name), batch_tokens=budget)
    order = np.random.default_rng(1).permutation(len(rows))
    found = sums(scorer, [rows[index] for index in order])
    np.testing.assert_allclose(found, expected[order], rtol=1e-5)


def test_logits_exist_for_a_chunk_at_a_time(families, monkeypatch):
    monkeypatch.setattr(forward, "LOGITS_ON_CPU", 10 * VOCABULARY)
    monkeypatch.setattr(forward, "LEAST_TOKENS", 1)
    sizes = []
    plain = forward.token_logps
    monkeypatch.setattr(
        forward, "token_logps", lambda logits, ids: sizes.append(len(logits)) or plain(logits, ids)
    )
    rows = some_rows()
    scorer = scorer_of(families("llama"))
    sizes.clear()
    scorer.token_logps(rows)
    assert sum(sizes) == sum(len(response) for _, response in rows)
    assert max(sizes) == 10


@pytest.mark.slow
def test_what_does_not_fit_is_halved_for_good(families, capsys):
    scorer = scorer_of(families("llama"), batch_tokens=4000)
    expected = sums(scorer, some_rows())
    reader, plain = scorer._reader, scorer._reader._forward
    tried = []

    def limited(pack, carried):
        tried.append(len(pack.ids))
        if len(pack.ids) > 60:
            raise torch.OutOfMemoryError("no")
        return plain(pack, carried)

    reader._forward = limited
    counted = []
    found = np.array([logps.sum() for logps in scorer.token_logps(some_rows(), counted.append)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert sum(counted) == len(expected)
    assert scorer.budget.tokens <= 60
    assert "out of memory with" in capsys.readouterr().out
    assert sum(count > 60 for count in tried) < 8  # it learns


@pytest.mark.slow
def test_memory_too_small_for_one_response_is_said(families):
    scorer = scorer_of(families("llama"), batch_tokens=2)

    def never(pack, carried):
        raise torch.OutOfMemoryError("no")

    scorer._reader._forward = never
    with pytest.raises(BadInput, match=r"does not suffice for .* tokens.*lower score.cutoff_len"):
        scorer.token_logps(some_rows())


def test_budget_passes_on_what_works():
    assert Budget(5).attempt(lambda: "done", 3) == "done"


def test_token_logps_by_hand():
    """Logits log 1, log 3 over two tokens are probabilities 1/4 and 3/4."""
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]]).log()
    found = token_logps(logits, torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([np.log(0.25), np.log(0.75)], abs=1e-6)


def test_token_logps_of_bfloat16_are_computed_in_float32():
    logits = torch.tensor([[5.0, 5.0, 5.0]], dtype=torch.bfloat16)
    found = token_logps(logits, torch.tensor([2]))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-np.log(3), abs=1e-6)
