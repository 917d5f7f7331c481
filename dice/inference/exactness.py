"""Which reader gives a model's own log-probs: found out on a few short rows when it is loaded."""

from collections.abc import Iterator

import numpy as np
import torch

from dice.errors import BadInput
from dice.inference.families import exact_attention
from dice.inference.forward import Budget, Reader, SeparateRows, SharedPrompts, set_attention
from dice.inference.packing import Rows

BUDGET = 16  # tokens: small enough that the probe's prompts are carried from pack to pack
FULL_AND_SLIDING = {"full_attention", "sliding_attention"}


def best_reader(model: torch.nn.Module) -> Reader:
    """A reader that agrees with the model itself; one that shares prompts where there is one.

    Raises BadInput for a model that none can read.
    """
    attention = exact_attention(model)
    rows = _rows(model.config.get_text_config().vocab_size)
    expected = _model_itself(model, attention, rows)
    for reader in _readers(model, attention):
        if _agrees(reader, rows, expected) and _windows_met(reader, model):
            if not isinstance(reader, SharedPrompts):
                print(f"{type(model).__name__} can't share prompts: every row is computed whole", flush=True)
            return reader
    raise BadInput(f"{type(model).__name__} ({model.config.model_type}) is no model that can be scored")


def _readers(model: torch.nn.Module, attention: str) -> Iterator[Reader]:
    bodies = list(dict.fromkeys((model.get_decoder(), model.base_model)))
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ()
    if model._supports_attention_backend and FULL_AND_SLIDING.issuperset(kinds):
        yield from (SharedPrompts(model, body, attention) for body in bodies)
    yield from (SeparateRows(model, body, attention) for body in bodies)


def _rows(vocabulary: int) -> Rows:
    ids = [int(i) for i in np.random.default_rng(0).integers(0, vocabulary, 64)]
    first, second = ids[:9], ids[9:14]
    return [(first, ids[14:21]), (first, ids[21:22]), (first, ids[22:36]), (second, ids[36:60])]


@torch.inference_mode()
def _model_itself(model: torch.nn.Module, attention: str, rows: Rows) -> np.ndarray:
    """Log-probs of all response tokens, row after row, float64."""
    set_attention(model, attention)
    found = []
    for prompt, response in rows:
        ids = torch.tensor([prompt + response], device=model.device)
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        targets = ids[0, len(prompt) :, None]
        found.append(logits.cpu().double().log_softmax(-1).gather(1, targets.cpu()).squeeze(1))
    return torch.cat(found).numpy()


def _agrees(reader: Reader, rows: Rows, expected: np.ndarray) -> bool:
    try:
        read = dict(reader.read(rows, range(len(rows)), Budget(BUDGET)))
    except Exception as error:  # whatever a family that works otherwise may raise
        print(f"{type(reader).__name__}: {type(error).__name__}: {error}", flush=True)
        return False
    apart = np.abs(np.concatenate([read[row] for row in range(len(rows))]) - expected)
    model = reader.head.model
    if model.dtype in (torch.float32, torch.float64) and not getattr(model, "is_quantized", False):
        return not np.any(apart > 1e-3 * (1 + np.abs(expected)))
    return not apart.mean() > 0.1  # rounding is about a hundredth of a nat per token


def _windows_met(reader: Reader, model: torch.nn.Module) -> bool:
    """Whether the model told our attention of its sliding window, which is longer than the probe."""
    if not isinstance(reader, SharedPrompts):
        return True
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in kinds if kinds else getattr(config, "use_sliding_window", True)
    return not (window and slides) or window in reader.windows
