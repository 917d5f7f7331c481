"""Losses on pairs beside LLaMA-Factory's, and parts of them. Pure: tensors in, tensors out."""

import torch

LOSSES = ("length_normalized", "wpo")  # what `loss` can name


def per_token(logps: tuple[torch.Tensor, ...], tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Log-probs of chosen and rejected under policy and reference, (B,) each, over the rows' tokens, (2B,).

    DPO on them is length-normalised DPO (Tulu 3, arXiv 2411.15124), with a beta of 5 or so.
    """
    return tuple(side / count for side, count in zip(logps, tokens.chunk(2) * 2, strict=True))


def smoothed(losses: torch.Tensor, turned_round: torch.Tensor, smoothing: torch.Tensor) -> torch.Tensor:
    """The losses (B,) of pairs that are ordered wrongly with the probabilities `smoothing`, (B,)."""
    return (1 - smoothing) * losses + smoothing * turned_round


def concentration(logits: torch.Tensor) -> torch.Tensor:
    """log of the sum of pi ** 2 over the vocabulary, the last dimension: 0 where one token is certain."""
    return torch.logsumexp(2 * logits, -1) - 2 * torch.logsumexp(logits, -1)


def wpo_weights(logps: torch.Tensor, concentrations: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """The weights of pairs in WPO (arXiv 2406.11827, sampled alignment), (B,), at most 1; a row each, (2B,).

    Of chosen times of rejected: exp of the mean, over a response's tokens, of log pi - `concentration`.
    """
    shares = (logps.detach() - concentrations) / tokens
    return torch.stack(shares.chunk(2)).sum(0).exp().clamp(max=1)


def kto_pair_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    ref_chosen: torch.Tensor,
    ref_rejected: torch.Tensor,
    beta: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """KTO's loss on pairs, (B,), and the rewards of chosen and rejected; log-probs are (B,), in nats.

    Each side is compared with the batch's divergence on the other side (arXiv 2402.01306, section 4.2).
    """
    good, bad = chosen - ref_chosen, rejected - ref_rejected
    drift_of_good, drift_of_bad = good.mean().detach().clamp(min=0), bad.mean().detach().clamp(min=0)
    losses = 2 - torch.sigmoid(beta * (good - drift_of_bad)) - torch.sigmoid(beta * (drift_of_good - bad))
    return losses / 2, beta * good.detach(), beta * bad.detach()
