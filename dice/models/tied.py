"""Models whose output head is their embedding, by `tie_word_embeddings` in config.json: it has to be true.

Where weights hold a head of its own beside such a config, transformers reads the head and vLLM the
embedding: two models. An adapter with a trained head or embedding makes one when it is merged.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from dice.models import remote_code

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

HEADS = ("lm_head.weight", "embed_out.weight")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
SAY_SO = "differ, but its config.json ties them: set tie_word_embeddings to false there"


def contradiction(folder: Path, weights: list[Path]) -> str | None:
    """What is wrong with a folder's head, in words that follow its name; None where it is as it says."""
    from safetensors import safe_open

    found = {}
    for path in weights:
        with safe_open(path, "np") as file:
            found |= {name: path for name in file.keys() if name.endswith(HEADS + EMBEDDINGS)}  # noqa: SIM118
    if len(found) != 2:
        return None
    import torch
    from transformers import AutoConfig

    if not _is_tied(AutoConfig.from_pretrained(folder, **remote_code.config_options())):
        return None
    tensors = []
    for name, path in found.items():
        with safe_open(path, "pt") as file:
            tensors.append(file.get_tensor(name))
    return None if torch.equal(*tensors) else f"has weights whose {' and '.join(sorted(found))} {SAY_SO}"


def separate(model: "PreTrainedModel") -> None:
    """Give the head of a tied model a weight of its own, so that it can change without the embedding."""
    import torch

    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())


def settle(model: "PreTrainedModel") -> None:
    """Tie a model whose config says so if head and embedding are equal; else have its config say what is."""
    if differ(model):
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    model.tie_weights()


def differ(model: "PreTrainedModel") -> bool:
    """Whether the config of a loaded model ties head and embedding, and their weights are not the same."""
    import torch

    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is embedding.weight or not _is_tied(model.config):
        return False
    return not (head.weight.is_meta or torch.equal(head.weight, embedding.weight))


def _is_tied(config: "PreTrainedConfig") -> bool:
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", False))
