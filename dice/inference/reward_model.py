"""Reward models: a transformer that gives one number to a prompt and a response.

Two kinds of checkpoints are read. What LLaMA-Factory's `stage: rm` writes is a causal LM (or a LoRA
adapter) and a `value_head.safetensors` beside it. Its reward is w . h + b of the last hidden state h of
the last token, and texts are encoded with the recipe's template, as in its training. Every other one is
a transformers model for sequence classification with one label, asked through its own forward pass; its
tokenizer's chat template is used where it has one, else the recipe's.

Weights are read from safetensors only. A checkpoint's own code runs with `trust_remote_code` only.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from transformers.utils import cached_file

from dice.errors import BadInput, first_line
from dice.inference.exactness import check_token_ids, position_limit
from dice.inference.forward import Budget, in_batches, in_order, padded
from dice.inference.positions import rows_apart
from dice.models import chat_template
from dice.models.loading import Models, Options, load_model
from dice.models.own_template import Unrendered, rendered
from dice.run.rows import Message
from dice.run.run import model_path

VALUE_HEAD = "value_head.safetensors"
Encode = Callable[[list[Message], str], list[int]]


class RewardModel:
    """One reward model, loaded once. Raises BadInput where it can't be loaded or is none.

    `encode` makes token ids of a prompt and a response. `longest` is the tokens of the longest row that
    the model can read.
    """

    def __init__(self, name: str, encoding: dict[str, Any], options: Options) -> None:
        self.name = name
        self.budget = Budget(options.batch_tokens)
        head = value_head(name)
        self.reader = Classifier(name, options) if head is None else ValueModel(name, head, options)
        self.longest = position_limit(self.reader.model)
        self.encode = encoder(name, encoding, own_template=head is None)

    def rewards(
        self, rows: Sequence[list[int]], on_done: Callable[[int], None] = lambda count: None
    ) -> list[float]:
        """The rewards of N rows of token ids, prompt and response together, in the model's own unit.

        `on_done` is called with 1 for every row that is done. Raises BadInput for a token that the model
        has no embedding of.
        """
        check_token_ids(self.reader.model, f"reward model {self.name!r}", rows)
        batches = in_batches(
            [len(row) for row in rows], self.budget, lambda batch: self._forward([rows[row] for row in batch])
        )
        return in_order(batches, on_done)

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        """Rewards of a batch, padded with the model's own padding, or a token that none of its rows has."""
        padding, used = self.reader.padding, {token for row in rows for token in row}
        if padding is None:
            padding = next(token for token in range(len(used) + 1) if token not in used)
        ids, mask = padded(rows, padding, self.reader.model.device)
        with rows_apart(self.reader.model, mask.sum(1)):
            return self.reader.values(ids, mask, padding).double().tolist()


class Classifier:
    """A model for sequence classification with one label, whose forward pass knows where to look.

    Those that look at the last token find it as the last one that is not the padding of their
    configuration. One whose configuration names none takes the last token; then any token that a batch
    does not have will do as its padding.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.model = load_model(name, options, AutoModelForSequenceClassification)
        if (labels := self.model.config.num_labels) != 1:
            raise BadInput(
                f"reward model {name!r} has {labels} labels; one that gives rewards has a single one"
            )
        self.padding = self.model.config.pad_token_id

    def values(self, ids: Tensor, mask: Tensor, padding: int) -> Tensor:
        """(B,) of ids and mask (B, L)."""
        self.model.config.pad_token_id = padding
        return self.model(input_ids=ids, attention_mask=mask).logits[:, 0]


class ValueModel:
    """A causal LM whose last hidden states a value head reads, as in TRL and LLaMA-Factory."""

    padding = None

    def __init__(self, name: str, head: dict[str, Tensor], options: Options) -> None:
        self.model = Models(options).use(name)
        hidden = self.model.get_input_embeddings().weight.shape[1]
        weight = head.get("v_head.summary.weight")
        if weight is None or tuple(weight.shape) != (1, hidden) or "v_head.summary.bias" not in head:
            raise BadInput(
                f"reward model {name!r}: its {VALUE_HEAD} has {', '.join(sorted(head)) or 'nothing'}; "
                f"wanted are v_head.summary.weight of 1 x {hidden} and v_head.summary.bias"
            )
        self.weight = weight[0].float().to(self.model.device)
        self.bias = head["v_head.summary.bias"].float().to(self.model.device)

    def values(self, ids: Tensor, mask: Tensor, padding: int) -> Tensor:
        """(B,) of ids and mask (B, L)."""
        states = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        last = states[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1]
        return last.float() @ self.weight + self.bias


def value_head(name: str) -> dict[str, Tensor] | None:
    """The value head beside a checkpoint (a folder or a Hub id); None where there is none."""
    path = cached_file(model_path(name), VALUE_HEAD, _raise_exceptions_for_missing_entries=False)
    try:
        return load_file(path) if path else None
    except (SafetensorError, OSError) as error:
        raise BadInput(f"reward model {name!r}: {VALUE_HEAD} can't be read ({error})") from None


def encoder(name: str, encoding: dict[str, Any], own_template: bool) -> Encode:
    """What makes token ids of a prompt and a response, for the reward model of this name.

    Raises BadInput where its tokenizer and the template don't go together.
    """
    told = "the chat template of {!r} takes no such conversation: {}"
    tokenizer = chat_template.load_tokenizer(name) if own_template else None
    if tokenizer is None or not tokenizer.chat_template:
        with_template = chat_template.load_chat(name, **encoding)
        return lambda messages, response: sum(with_template.encode(messages, response), [])

    hello = [Message(role="user", content="Hi"), Message(role="assistant", content="Hello!")]
    try:
        rendered(tokenizer, hello)  # within limits, so that none that has no end is met below
    except Unrendered as reason:
        raise BadInput(told.format(name, reason)) from None

    def encode(messages: list[Message], response: str) -> list[int]:
        turns = [*messages, Message(role="assistant", content=response)]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        except Exception as error:  # of any kind: a template is a program
            raise BadInput(told.format(name, first_line(error))) from None
        return tokenizer.encode(text, add_special_tokens=False)

    return encode
