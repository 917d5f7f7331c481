"""Reward models: a transformer that gives one number to a prompt and a response.

Two kinds of checkpoints are read. What LLaMA-Factory's `stage: rm` writes is a causal LM (or a LoRA
adapter) and a `value_head.safetensors` beside it: the reward is a linear function of the last hidden
state of the last token, and texts are encoded with the recipe's template, as in its training. Every
other one is a transformers model for sequence classification with one label, asked through its own
forward pass; its tokenizer's chat template is used where it has one, else the recipe's.

Weights are read from safetensors only. A checkpoint's own code runs with `trust_remote_code` only.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification
from transformers.utils import cached_file

from dice.errors import BadInput
from dice.inference.families import position_limit
from dice.inference.forward import Budget
from dice.inference.scorer import TOKENS, TOKENS_ON_CPU, Options
from dice.models import chat_template
from dice.models.loading import Models, device, load_model
from dice.recipe.keys import resolve
from dice.run.rows import Message

VALUE_HEAD = "value_head.safetensors"
Encode = Callable[[list[Message], str], list[int]]


class RewardModel:
    """One reward model, loaded once. Raises BadInput where it can't be loaded or is none."""

    def __init__(self, name: str, template: str, options: Options) -> None:
        self.name = name
        tokens = TOKENS_ON_CPU if device().type == "cpu" else TOKENS
        self.budget = Budget(tokens if options.batch_tokens == "auto" else int(options.batch_tokens))
        head = value_head(name)
        self.reader = Classifier(name, options) if head is None else ValueModel(name, head, options)
        self.encode = encoder(name, template, own_template=head is None)

    @property
    def longest(self) -> float:
        """Tokens of the longest row that the model can read."""
        return position_limit(self.reader.model)

    def rewards(
        self, rows: Sequence[list[int]], on_done: Callable[[int], None] = lambda count: None
    ) -> list[float]:
        """The rewards of N rows of token ids, prompt and response; rows of similar length side by side."""
        known = self.reader.model.get_input_embeddings().weight.shape[0]
        if rows and (highest := max(map(max, rows))) >= known:
            raise BadInput(
                f"reward model {self.name!r} has embeddings for token ids below {known:,}; its tokenizer "
                f"gave id {highest:,}"
            )
        found: dict[int, float] = {}
        left = sorted(range(len(rows)), key=lambda row: -len(rows[row]))
        while left:
            width = len(rows[left[0]])
            batch = left[: max(1, self.budget.tokens // width)]
            values = self.budget.attempt(
                lambda batch=batch: self._forward([rows[row] for row in batch]), width * len(batch)
            )
            if values is not None:
                left = left[len(batch) :]
                found |= zip(batch, values, strict=True)
                on_done(len(batch))
        return [found[row] for row in range(len(rows))]

    @torch.inference_mode()
    def _forward(self, rows: list[list[int]]) -> list[float]:
        """Rewards of a batch, padded on the right with a token that none of its rows has."""
        used = {token for row in rows for token in row}
        padding = self.reader.padding
        padding = next(i for i in range(len(used) + 1) if i not in used) if padding is None else padding
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), padding)
        real = torch.zeros((len(rows), width), dtype=torch.long)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            real[number, : len(row)] = 1
        place = self.reader.model.device
        return self.reader.values(ids.to(place), real.to(place), padding).double().tolist()


class Classifier:
    """A model for sequence classification with one label, whose forward pass knows where to look.

    Those that look at the last token find it as the last one that is not the padding of their
    configuration. One whose configuration names none takes the last token; then any token that a batch
    does not have will do as its padding.
    """

    def __init__(self, name: str, options: Options) -> None:
        self.model = _load_classifier(name, options)
        self.padding = self.model.config.pad_token_id

    def values(self, ids: torch.Tensor, real: torch.Tensor, padding: int) -> torch.Tensor:
        """(B,) of ids and mask (B, L)."""
        self.model.config.pad_token_id = padding
        return self.model(input_ids=ids, attention_mask=real).logits[:, 0]


class ValueModel:
    """A causal LM whose last hidden states a value head reads, as in TRL and LLaMA-Factory."""

    padding = None

    def __init__(self, name: str, head: dict[str, torch.Tensor], options: Options) -> None:
        self.model = Models(options.dtype, options.attn_implementation, options.quantization_bit).use(name)
        hidden = self.model.get_input_embeddings().weight.shape[1]
        weight = head.get("v_head.summary.weight")
        if weight is None or tuple(weight.shape) != (1, hidden) or "v_head.summary.bias" not in head:
            raise BadInput(
                f"reward model {name!r}: its {VALUE_HEAD} has {', '.join(sorted(head)) or 'nothing'}; "
                f"wanted are v_head.summary.weight of 1 x {hidden} and v_head.summary.bias"
            )
        self.weight = weight[0].float().to(self.model.device)
        self.bias = head["v_head.summary.bias"].float().to(self.model.device)

    def values(self, ids: torch.Tensor, real: torch.Tensor, padding: int) -> torch.Tensor:
        """(B,) of ids and mask (B, L)."""
        body = self.model.base_model
        states = body(input_ids=ids, attention_mask=real, use_cache=False).last_hidden_state
        last = states[torch.arange(len(ids), device=ids.device), real.sum(1) - 1]
        return last.float() @ self.weight + self.bias


def value_head(name: str) -> dict[str, torch.Tensor] | None:
    """The value head beside a checkpoint (a folder or a Hub id); None where there is none."""
    folder = resolve(name)
    if folder.is_dir():
        path = folder / VALUE_HEAD
    else:
        found = cached_file(name, VALUE_HEAD, _raise_exceptions_for_missing_entries=False)
        path = Path(found) if found else None
    if path is None or not path.is_file():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"reward model {name!r}: {VALUE_HEAD} can't be read ({error})") from None


def encoder(name: str, template: str, own_template: bool) -> Encode:
    """What makes token ids of a prompt and a response, for the reward model of this name.

    Raises BadInput where its tokenizer and the template don't go together.
    """
    tokenizer = chat_template.load_tokenizer(name) if own_template else None
    if tokenizer is None or not tokenizer.chat_template:
        with_template = chat_template.load_chat(name, template)
        return lambda messages, response: sum(with_template.encode(messages, response), [])

    def encode(messages: list[Message], response: str) -> list[int]:
        turns = [*messages, Message(role="assistant", content=response)]
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
        except (TemplateError, ValueError) as error:
            raise BadInput(f"the chat template of {name!r} takes no such conversation: {error}") from None
        return tokenizer.encode(text, add_special_tokens=False)

    return encode


def _load_classifier(name: str, options: Options) -> torch.nn.Module:
    how = options.dtype, options.attn_implementation, options.quantization_bit
    model = load_model(name, *how, AutoModelForSequenceClassification)
    if (labels := model.config.num_labels) != 1:
        raise BadInput(f"reward model {name!r} has {labels} labels; one that gives rewards has a single one")
    return model
