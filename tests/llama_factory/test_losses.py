"""Losses beside LLaMA-Factory's, worked out by hand (tests/llama_factory/test_training.py trains)."""

from math import exp, log
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
losses = pytest.importorskip("losses")


def test_dpo_per_token():
    """Chosen has 2 tokens, rejected 4: their log-ratios of 1 and -2 are 0.5 and -0.5 a token."""
    sums = [torch.tensor([value]) for value in (-3.0, -8.0, -4.0, -6.0)]
    chosen, rejected, ref_chosen, ref_rejected = losses.per_token(sums, torch.tensor([2, 4]))
    assert (chosen.item(), rejected.item(), ref_chosen.item(), ref_rejected.item()) == (-1.5, -2, -2, -1.5)
    assert (chosen - ref_chosen - (rejected - ref_rejected)).item() == 1.0


def test_a_smoothed_label():
    """A pair that is wrong with probability 0.25: 0.75 of its loss, and 0.25 of the loss turned round."""
    right, wrong = torch.tensor([log(2), 0.2]), torch.tensor([log(2), 1.0])
    found = losses.smoothed(right, wrong, torch.tensor([0.5, 0.25]))
    assert found.tolist() == pytest.approx([log(2), 0.4])


@pytest.mark.slow
def test_a_loss_in_an_evaluation_without_training():
    """Of four equal log-probs, with no labels smoothed."""
    import loss_trainer

    trainer = loss_trainer.LossTrainer.__new__(loss_trainer.LossTrainer)
    vars(trainer).update(loss_type="sigmoid", beta=0.1, label_smoothing=0, f_divergence_type="reverse_kl")
    vars(trainer).update(reference_free=False, accelerator=SimpleNamespace(device=torch.device("cpu")))
    found, *_ = trainer.dpo_loss(*[torch.zeros(2)] * 4)
    assert found.tolist() == pytest.approx([log(2)] * 2)


def test_how_concentrated_a_distribution_is():
    """Of (0.9, 0.1) the sum of squares is 0.82, of four equal ones 0.25, of a certain one 1."""
    logits = torch.tensor([[0.9, 0.1, 0, 0], [0.25] * 4, [1, 0, 0, 0]]).log() + torch.tensor(
        [[7.0], [0], [-3]]
    )
    assert losses.concentration(logits).tolist() == pytest.approx([log(0.82), log(0.25), 0])


def test_weights_of_wpo():
    """Three pairs of four tokens a side: what is sampled from equal chances counts 1, an unlikely token less.

    In the first pair every token has a chance of 1/4 among four. In the second, chosen's are 0.1 of
    (0.9, 0.1), and rejected's are 0.9 of it: (0.1 / 0.82) * (0.9 / 0.82). The third would have 1.2.
    """
    logps = 4 * torch.tensor([log(0.25), log(0.1), log(0.9), log(0.25), log(0.9), log(0.9)])
    spread = 4 * torch.tensor([log(0.25), log(0.82), log(0.82), log(0.25), log(0.82), log(0.82)])
    logps.requires_grad_()
    weights = losses.wpo_weights(logps, spread, torch.tensor([4] * 6))
    assert weights.tolist() == pytest.approx([1, 0.09 / 0.82**2, 1]) and not weights.requires_grad
    assert exp(2 * log(0.9 / 0.82)) > 1.2
