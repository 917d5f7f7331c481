"""How large a model is: from its files, from the Hub, or, failing both, from its name."""

import json
import math
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dice.models import hub
from dice.models.checkpoint import base_of, downloaded, weight_files
from dice.recipe.paths import resolve
from dice.run.files import read_json

IN_NAME = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)([bm])(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Size:
    """A decoder's shape. Its parameters are the most reliable part; `source` says where they are from."""

    parameters: int
    layers: int
    hidden: int  # width of the residual stream
    intermediate: int  # width of the feed-forward layers
    key_width: int  # key heads times their width: what a token's keys take in a layer
    vocabulary: int
    context: int | None  # tokens that it was trained for
    source: str
    weights: int | None = None  # bytes on this machine

    @property
    def embeddings(self) -> int:
        """Parameters of embeddings and head, which quantization leaves alone."""
        return min(2 * self.vocabulary * self.hidden, self.parameters)


# Shapes of public models, for sizes that only a name tells: parameters in billions, then as in `Size`.
SHAPES = (
    (0.5, 24, 896, 4864, 128, 151936),
    (1.2, 16, 2048, 8192, 512, 128256),
    (3.2, 28, 3072, 8192, 1024, 128256),
    (7.2, 32, 4096, 14336, 1024, 32000),
    (8.0, 32, 4096, 14336, 1024, 128256),
    (14.8, 48, 5120, 13824, 1024, 152064),
    (32.8, 64, 5120, 27648, 1024, 152064),
    (70.6, 80, 8192, 28672, 1024, 128256),
)


def size_of(name: str) -> Size | None:
    """The size of a model: a folder, a name of the Hub, or an adapter, which is as large as its base.

    None where neither files nor Hub nor name tell.
    """
    folder = resolve(name) if resolve(name).is_dir() else downloaded(name)
    if folder:
        return _of_folder(folder)
    cached = hub.cached(name)
    if cached and (config := read_json(cached / "config.json")):
        return _of_config(config)
    try:
        remote = hub.look_up(name)
    except (hub.OutOfReach, hub.NoSuchModel):
        return _of_name(name)
    if remote.parameters:
        return replace(_like(remote.parameters), source="the Hub")
    return _of_name(name)


def _of_folder(folder: Path) -> Size | None:
    if base := base_of(str(folder)):
        return size_of(base)
    config = read_json(folder / "config.json")
    size = _of_config(config) if config else None
    if size is None:
        return None
    files = weight_files(folder)
    size = replace(size, weights=sum(path.stat().st_size for path in files) or None)
    if not files or "quantization_config" in config:  # packed weights do not tell their number
        return size
    return replace(size, parameters=sum(map(_elements, files)), source="its weights")


def _elements(path: Path) -> int:
    """Numbers in a safetensors file, from its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _of_config(config: dict[str, Any]) -> Size | None:
    """The size that a config.json describes, as a Llama would have it; None where it lacks the numbers."""
    inner = config.get("text_config")
    config = {**config, **(inner if isinstance(inner, dict) else {})}

    def first(*keys: str) -> int | None:
        return next((config[key] for key in keys if isinstance(config.get(key), int)), None)

    layers, hidden = first("num_hidden_layers", "n_layer"), first("hidden_size", "n_embd", "d_model")
    heads, vocabulary = first("num_attention_heads", "n_head"), first("vocab_size")
    if not (layers and hidden and heads and vocabulary):
        return None
    head = first("head_dim") or hidden // heads
    key_width = (first("num_key_value_heads") or heads) * head
    intermediate = first("intermediate_size", "n_inner", "ffn_dim") or 4 * hidden
    attention, feed_forward = 2 * hidden * (heads * head + key_width), 3 * hidden * intermediate
    tables = 1 if config.get("tie_word_embeddings") else 2
    parameters = layers * (attention + feed_forward) + tables * vocabulary * hidden
    context = first("max_position_embeddings", "n_positions")
    shape = (layers, hidden, intermediate, key_width, vocabulary)
    return Size(parameters, *shape, context, source="its config.json")


def _of_name(name: str) -> Size | None:
    """The size that a name like zephyr-7b-beta tells."""
    if not (found := IN_NAME.findall(name.rpartition("/")[2])):
        return None
    number, unit = found[-1]
    return _like(int(float(number) * (1e9 if unit.lower() == "b" else 1e6)))


def _like(parameters: int) -> Size:
    """A model of so many parameters in the shape of the nearest public one."""
    _, *shape = min(SHAPES, key=lambda known: abs(math.log(known[0] * 1e9 / max(parameters, 1))))
    return Size(parameters, *shape, context=None, source="its name")
