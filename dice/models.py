"""Loading causal LMs for sampling and scoring: whole models, and LoRA adapters on a base."""

import contextlib
import gc

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from dice.checkpoints import base_of
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


def attention_choices(attention: str, dtype: str) -> list[str | None]:
    """What to load a model with, first choice first; None leaves it to transformers.

    `auto` is flash attention where it is installed and can be used (not in float32), else SDPA, else
    eager. A name is that one.
    """
    if attention != "auto":
        return [attention]
    choices: list[str | None] = [None]
    if device().type == "cuda" and dtype_name(dtype) != "float32":
        installed = {
            "flash_attention_3": is_flash_attn_3_available(),
            "flash_attention_2": is_flash_attn_2_available(),
        }
        choices = [name for name, found in installed.items() if found] + choices
    return choices


def load_model(
    path: str, dtype: str, attention: str = "auto", quantization_bit: int | None = None
) -> torch.nn.Module:
    """A causal LM in evaluation mode on `device()`; an adapter's folder loads with its base.

    `quantization_bit` 4 or 8 quantizes the weights with bitsandbytes while loading them.
    Raises BadInput where `path` (a folder or a Hub id) holds no causal LM, or one that can't be
    loaded this way.
    """
    kind = getattr(torch, dtype_name(dtype))
    *first, last = attention_choices(attention, dtype)
    for choice in first:
        with contextlib.suppress(ValueError, ImportError):  # a family that has no flash attention
            return _load(path, kind, choice, quantization_bit)
    try:
        return _load(path, kind, last, quantization_bit)
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"model {path!r} can't be loaded as a causal LM: {reason}") from error


def _load(
    path: str, kind: torch.dtype, attention: str | None, quantization_bit: int | None
) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=kind,
        attn_implementation=attention,
        quantization_config=_quantization(quantization_bit, kind),
        device_map={"": device()},
    )
    return model.eval().requires_grad_(False)


def _quantization(bits: int | None, kind: torch.dtype) -> object | None:
    if bits is None:
        return None
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=kind,
    )


class Models:
    """One model at a time. Models that are adapters on the same base share it.

    A policy that is an adapter on its reference is therefore loaded once, and its adapter switched
    on and off.
    """

    def __init__(self, dtype: str, attention: str, quantization_bit: int | None) -> None:
        self._options = (dtype, attention, quantization_bit)
        self._base: str | None = None
        self._model: torch.nn.Module | None = None  # the base, adapters injected where there are any
        self._adapters = None  # peft's view of it

    def holds(self, name: str) -> bool:
        """Whether a model can be used without loading another base."""
        return self._base == (base_of(name) or name)

    def use(self, name: str) -> torch.nn.Module:
        """The model of a folder or a Hub id: the same object as before where only the adapter differs."""
        base = base_of(name)
        if not self.holds(name):
            self._model = self._adapters = self._base = None
            free_memory()
            self._model = load_model(base or name, *self._options)
            self._base = base or name
        if base:
            self._switch_to(name)
        elif self._adapters:
            self._adapters.base_model.disable_adapter_layers()
        return self._model

    def _switch_to(self, adapter: str) -> None:
        from peft import PeftModel

        key = adapter.replace(".", "_")  # peft uses it as a module's name
        try:
            if self._adapters is None:
                self._adapters = PeftModel.from_pretrained(self._model, adapter, adapter_name=key)
            elif key not in self._adapters.peft_config:
                self._adapters.load_adapter(adapter, adapter_name=key)
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BadInput(f"adapter {adapter!r} can't be loaded onto {self._base!r}: {reason}") from error
        self._adapters.base_model.enable_adapter_layers()
        self._adapters.set_adapter(key)
        self._adapters.eval().requires_grad_(False)


def free_memory() -> None:
    """Give memory that nothing refers to any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def end_ids(model: torch.nn.Module) -> list[int]:
    """Token ids that end a response according to the model's generation config."""
    eos = model.generation_config.eos_token_id if model.generation_config else None
    return eos if isinstance(eos, list) else [] if eos is None else [eos]
