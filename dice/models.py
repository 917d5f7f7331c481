"""Loading a causal LM for sampling and scoring."""

import torch
from transformers import AutoModelForCausalLM

from dice.errors import BadInput


def device() -> torch.device:
    """Where this worker computes: the CUDA device that it sees, an Apple GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def dtype_name(dtype: str) -> str:
    """`auto` is bfloat16 on GPUs, float32 on CPUs."""
    if dtype != "auto":
        return dtype
    return "float32" if device().type == "cpu" else "bfloat16"


def load_model(path: str, dtype: str) -> torch.nn.Module:
    """A causal LM in evaluation mode on `device()`.

    Raises BadInput where `path` (a folder or a Hub id) holds no causal LM.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype_name(dtype)))
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"model {path!r} can't be loaded as a causal LM: {reason}") from error
    return model.to(device()).eval().requires_grad_(False)


def end_ids(model: torch.nn.Module) -> list[int]:
    """Token ids that end a response according to the model's generation config."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    return eos if isinstance(eos, list) else [] if eos is None else [eos]
