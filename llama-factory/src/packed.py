"""Pairs in packs: one way to read a model, for scoring and for training.

A batch of pairs is one sequence without padding, each prompt once with its responses behind it
(`dice.inference.packing`). Attention and positions are those of scoring, now with gradients. Log-probs are
made of the states that predict a response, a chunk of tokens at a time. A chunk's logits are thrown away and
computed again in the backward pass, so they take the memory of one chunk, whatever the length.

The model's own `forward` takes the packs, as one more keyword. What wraps a model (DDP, FSDP, DeepSpeed,
PEFT, autocast) therefore sees a forward pass like any other.
"""

from functools import partial, wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import ModelOutput

from dice.inference.exactness import exact_attention, may_share_prompts
from dice.inference.forward import chunk_size, forward_replaced, may_join, set_attention
from dice.inference.packed_attention import KEYWORD, NAME, Attention
from dice.inference.packing import Pack, fill, group_by_prompt
from dice.inference.positions import longest_beside_others
from dice.models.reference_table import IGNORED
from losses import concentration

PACK = "dice_pack"  # the keyword
NAMES = ("input_ids", "labels", "attention_mask")


class Logps(NamedTuple):
    """Of a batch's rows, (2B,): the responses' log-probs summed, in nats; the mean logit of their tokens.

    `concentrations` are sums over tokens as well, where they are asked for; else 0.
    """

    sums: Tensor
    mean_logits: Tensor
    concentrations: Tensor


def pack_of(batch: dict[str, Tensor], limit: float) -> Pack | None:
    """The pack of a padded batch, (2B, L): chosen, then rejected.

    None where a row has more than `limit` tokens or is no prompt with a response to it, and where the batch
    has more than token ids (images).
    """
    if set(batch) != set(NAMES) or batch["attention_mask"].sum(1).max() > limit:
        return None
    rows = []
    for ids, labels, mask in zip(*(batch[name].tolist() for name in NAMES), strict=True):
        own = [(token, label) for token, label, there in zip(ids, labels, mask, strict=True) if there]
        begins = next((at for at, (_, label) in enumerate(own) if label != IGNORED), 0)
        prompt, response = ([token for token, _ in part] for part in (own[:begins], own[begins:]))
        if not prompt or response != [label for _, label in own[begins:]]:
            return None
        rows.append((prompt, response))
    pack, _ = fill(group_by_prompt(rows), (0, 0), budget=batch["input_ids"].numel())
    return pack


class Packed:
    """A causal LM that can be read in packs, as well as in its own way."""

    def __init__(self, model: torch.nn.Module, weighs: bool = False) -> None:
        """Give a model, or the model below an adapter, the keyword; to be done before anything wraps it."""
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.weighs = weighs  # whether concentrations are asked for
        self.own, self.own_attention = self.model.forward, exact_attention(self.model)
        has_dropout = getattr(self.model.config.get_text_config(), "attention_dropout", 0)
        self.may = may_share_prompts(self.model) and not has_dropout
        self.limit = longest_beside_others(self.model)  # tokens of a row that others may stand beside
        self.windows: set[int | None] = set()
        self.agrees: bool | None = None  # with the model's own way, within rounding; None: not known yet

        @wraps(self.own)
        def forward(*given: Any, **named: Any) -> Any:
            if (pack := named.pop(PACK, None)) is not None:
                return self._read(named["input_ids"], *pack)
            set_attention(self.model, self.own_attention)
            return self.own(*given, **named)

        self.model.forward = forward

    def arguments(self, pack: Pack, chunks: int, device: torch.device) -> dict[str, Any]:
        """What the model, or what wraps it, is to be called with to get the `Logps` of a pack.

        The tokens of the pack get their logits in so many chunks.
        """
        return {"input_ids": torch.tensor([pack.ids], device=device), PACK: (pack, chunks)}

    def chunks(self, pack: Pack) -> int:
        """In how many chunks the tokens of a pack should get their logits."""
        return -(-len(pack.targets) // chunk_size(self.model))

    def _read(self, ids: Tensor, pack: Pack, chunks: int) -> Logps:
        """The log-probs of a pack with the token ids (1, T)."""
        set_attention(self.model, NAME)
        attention = Attention(pack, self.own_attention, ids.device, {}, may_join(self.model))
        positions, predictors, targets = (
            torch.tensor(part, device=ids.device) for part in (pack.positions, pack.predictors, pack.targets)
        )
        body = self.model.get_decoder()
        output = body(input_ids=ids, position_ids=positions[None], use_cache=False, **{KEYWORD: attention})
        self.windows |= attention.windows
        chunk = partial(self._chunk, type(output))
        *others, last = zip(
            output.last_hidden_state[0, predictors].tensor_split(chunks),
            targets.tensor_split(chunks),
            strict=True,
        )
        parts = [checkpoint(chunk, *part, use_reentrant=False, preserve_rng_state=False) for part in others]
        parts.append(chunk(*last))  # its backward pass is the first, so its logits may as well stay
        logps, logits, spread = (torch.cat(part) for part in zip(*parts, strict=True))
        means = _by_row(pack, logits) / _by_row(pack, torch.ones_like(logits))
        return Logps(_by_row(pack, logps), means, _by_row(pack, spread))

    def _chunk(
        self, kind: type[ModelOutput], states: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probs of tokens (N,), the mean of each one's logits, and their `concentration` if asked for.

        They come of the states before the tokens, (N, H), which the head is handed in what the body returns:
        the heads of some families look for more there than states.
        """
        output = kind(last_hidden_state=states[None])
        placeholder = torch.zeros((1, len(states)), dtype=torch.long, device=states.device)
        with forward_replaced(self.model.get_decoder(), lambda *_, **__: output):
            logits = self.own(input_ids=placeholder, use_cache=False).logits[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logps = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        known = logits.detach()
        means = known.mean(-1)
        return logps, means, concentration(known) if self.weighs else torch.zeros_like(means)


def _by_row(pack: Pack, values: Tensor) -> Tensor:
    """The sums of the tokens' values (N,) by row, (2B,)."""
    rows, counts = torch.tensor(pack.rows, device=values.device).unbind(1)
    return values.new_zeros(len(rows)).index_add(0, rows.repeat_interleave(counts), values)
