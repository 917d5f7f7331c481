"""How models may be loaded: their own code is run where the recipe says so, pickles are never read.

A model folder may bring Python code (`auto_map` in its config.json) and weights as pickles (`*.bin`), which
are code as well. `trust_remote_code: true` in a recipe allows the former; nothing allows the latter. The
answer belongs to a process: what begins to work for a recipe says it once, every loader asks here.
"""

import os
from typing import Any

from dice.launch.processes import WEIGHTS_ONLY

_runs_code = False


def run_code(allowed: bool) -> None:
    """Say whether this process may run code that comes with models; until then it may not."""
    global _runs_code
    _runs_code = allowed
    os.environ.update(WEIGHTS_ONLY)


def runs_code() -> bool:
    """Whether this process may run code that comes with models."""
    return _runs_code


def know_deepspeed() -> None:
    """Let `torch.load` make the plain objects that DeepSpeed keeps in its checkpoints, and nothing else."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    plain = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    torch.serialization.add_safe_globals(plain)


def of_model() -> dict[str, Any]:
    """What `from_pretrained` of a model is to be called with."""
    return {"use_safetensors": True, **of_config()}


def of_config() -> dict[str, Any]:
    """What `from_pretrained` of a configuration or a tokenizer is to be called with."""
    return {"trust_remote_code": _runs_code}
