"""What model families do differently, as far as their configuration and their modules tell."""

import torch


def exact_attention(model: torch.nn.Module) -> str:
    """The attention that the model was loaded with, unless that would leave out a cap on its scores."""
    loaded = model.config._attn_implementation
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    return "eager" if capped and loaded == "sdpa" else loaded


def alike_up_to(model: torch.nn.Module) -> float:
    """Tokens of a row up to which its positions are encoded the same whatever the rows beside it.

    Families with "longrope" or "dynamic" position encodings encode a forward pass that holds a
    longer row differently, from its first token on.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    limits = [float("inf")]
    for part in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        if part.get("rope_type") in ("dynamic", "longrope"):
            limits.append(part.get("original_max_position_embeddings") or config.max_position_embeddings)
    return min(limits)


def position_limit(model: torch.nn.Module) -> float:
    """Tokens of a row that a model with a table of positions (GPT-2, OPT) can read; else infinity."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    others = [m for m in tables if m is not model.get_input_embeddings()]
    if limit and any(limit <= table.num_embeddings <= limit + 2 for table in others):
        return limit
    return float("inf")


def forget_lengths(model: torch.nn.Module) -> None:
    """Make "dynamic" position encodings what they are for short rows.

    transformers stretches them for a long row, and in this version never shrinks them again.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None) or {}
        for layers, kind in ({"": kinds} if isinstance(kinds, str) else kinds).items():
            prefix = f"{layers}_" if layers else ""
            if kind == "dynamic":
                original = getattr(module, f"{prefix}original_inv_freq")
                setattr(module, f"{prefix}inv_freq", original.to(model.device))
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
