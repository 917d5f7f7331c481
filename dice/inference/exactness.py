"""Whether a model is read exactly: which reader gives the model's own log-probs, and for which rows.

When a model is loaded, four short rows are read twice: by the model itself, one plain forward pass each,
and by a reader of `dice.inference.forward`. The first reader that agrees is used. Packs are tried first.
They can't be used for a model whose tokens take their positions from where they stand in the sequence
(ALiBi, recurrent models), whose attention has more to it than a mask (attention sinks), or whose windows
our attention is not told of; then every row is computed whole.

Some limits can't be seen in short rows. The functions below the readers' take them from the model's
configuration and its modules; `dice.inference.positions` has one more.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from dice.errors import BadInput
from dice.inference.forward import Budget, Reader, SeparateRows, SharedPrompts, is_precise, set_attention
from dice.inference.packing import Rows

BUDGET = 16  # tokens: so few that a prompt of the four rows is carried from pack to pack
FULL_AND_SLIDING = {"full_attention", "sliding_attention"}


def best_reader(model: torch.nn.Module) -> Reader:
    """A reader that agrees with the model itself; one that shares prompts where there is one.

    Raises BadInput for a model that no reader can read.
    """
    attention = exact_attention(model)
    rows = _rows(model.config.get_text_config().vocab_size)
    expected = _by_the_model_itself(model, attention, rows)
    for reader in _readers(model, attention):
        if not _agrees(reader, rows, expected):
            continue
        if not isinstance(reader, SharedPrompts):
            print(f"{type(model).__name__} can't share prompts: every row is computed whole", flush=True)
            return reader
        if knows_windows(reader.windows, model):
            return reader
    raise BadInput(f"{type(model).__name__} ({model.config.model_type}) is no model that can be scored")


def _readers(model: torch.nn.Module, attention: str) -> Iterator[Reader]:
    bodies = list(dict.fromkeys((model.get_decoder(), model.base_model)))
    if may_share_prompts(model):
        yield from (SharedPrompts(model, body, attention) for body in bodies)
    yield from (SeparateRows(model, body, attention) for body in bodies)


def may_share_prompts(model: torch.nn.Module) -> bool:
    """Whether a model's attention can be replaced by ours, as far as its class and its configuration tell."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    return model._supports_attention_backend and FULL_AND_SLIDING.issuperset(kinds)


def _rows(vocabulary: int) -> Rows:
    """Three responses of 7, 1 and 14 tokens to a prompt of 9, and one of 24 tokens to a prompt of 5."""
    ids = [int(i) for i in np.random.default_rng(0).integers(0, vocabulary, 64)]
    first, second = ids[:9], ids[9:14]
    return [(first, ids[14:21]), (first, ids[21:22]), (first, ids[22:36]), (second, ids[36:60])]


@torch.inference_mode()
def _by_the_model_itself(model: torch.nn.Module, attention: str, rows: Rows) -> np.ndarray:
    """Log-probs of all response tokens, row after row, in nats, float64 (N,)."""
    set_attention(model, attention)
    found = []
    for prompt, response in rows:
        ids = torch.tensor([prompt + response], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        targets = ids[0, len(prompt) :, None]
        found.append(logits.cpu().double().log_softmax(-1).gather(1, targets.cpu()).squeeze(1))
    return torch.cat(found).numpy()


def _agrees(reader: Reader, rows: Rows, expected: np.ndarray) -> bool:
    """Whether a reader gives these log-probs within rounding.

    In single precision every token must agree within 0.001 nats (1 + |logp|); in half precision, or
    with quantized weights, tokens must agree within 0.1 nats on average.
    """
    try:
        read = dict(reader.read(rows, Budget(BUDGET)))
    except Exception as error:  # whatever a family that works otherwise may raise
        print(f"{type(reader).__name__}: {type(error).__name__}: {error}", flush=True)
        return False
    apart = np.abs(np.concatenate([read[row] for row in range(len(rows))]) - expected)
    model = reader.head.model
    if is_precise(model) and not getattr(model, "is_quantized", False):
        return not np.any(apart > 1e-3 * (1 + np.abs(expected)))
    return not apart.mean() > 0.1  # rounding is about a hundredth of a nat per token


def knows_windows(windows: set[int | None], model: torch.nn.Module) -> bool:
    """Whether the sliding window of the model is among those that it told our attention of.

    The window may be longer than the rows that were read.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return not (window and slides) or window in windows


def exact_attention(model: torch.nn.Module) -> str:
    """The attention that the model was loaded with, unless that would leave out a cap on its scores."""
    loaded = model.config._attn_implementation
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped and loaded == "sdpa" else loaded


def position_limit(model: torch.nn.Module) -> float:
    """Tokens that a row may have in a model with a table of positions (GPT-2, OPT); else infinity."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    others = [m for m in tables if m is not model.get_input_embeddings()]
    if limit and any(limit <= table.num_embeddings <= limit + 2 for table in others):
        return limit
    return float("inf")


def check_token_ids(model: torch.nn.Module, name: str, rows: Iterable[list[int]]) -> None:
    """Raises BadInput for a token id that the model, called `name` in the message, has no embedding of."""
    known = model.get_input_embeddings().weight.shape[0]
    if (highest := max((max(ids, default=0) for ids in rows), default=0)) >= known:
        raise BadInput(
            f"{name} has embeddings for token ids below {known:,}; the tokenizer gave id {highest:,}: "
            "it is not this model's"
        )
