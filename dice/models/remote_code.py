"""What code a model may bring: Python where a recipe says `trust_remote_code: true`, pickles never.

A model folder may hold Python code (`auto_map` in its config.json) and weights as pickles (`*.bin`), which
are code as well. The answer belongs to a process: whatever begins to work for a recipe calls `allow`
once, and every loader takes its options from here.
"""

import os
from typing import Any

from dice.launch.processes import WEIGHTS_ONLY

_allowed = False


def allow(allowed: bool) -> None:
    """Say whether this process may run code that comes with models; until then it may not."""
    global _allowed
    _allowed = allowed
    os.environ.update(WEIGHTS_ONLY)


def is_allowed() -> bool:
    """Whether this process may run code that comes with models."""
    return _allowed


def config_options() -> dict[str, Any]:
    """Options for `from_pretrained` of a configuration or a tokenizer."""
    return {"trust_remote_code": _allowed}


def model_options() -> dict[str, Any]:
    """Options for `from_pretrained` of a model."""
    return {"use_safetensors": True, **config_options()}


def allow_deepspeed_states() -> None:
    """Let `torch.load` make the plain objects that DeepSpeed keeps in its checkpoints, and nothing else."""
    import torch
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    plain = [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]
    torch.serialization.add_safe_globals(plain)
