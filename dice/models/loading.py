"""Loading causal LMs for sampling and scoring: whole models, and LoRA adapters on a base."""

import contextlib
import gc
import hashlib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

from dice.errors import BadInput, first_line, spelled
from dice.launch.devices import dtype_name
from dice.models import remote_code, tied
from dice.models.checkpoint import alters_base, base_of, only_pickles
from dice.recipe.paths import resolve
from dice.run.run import model_path

ADAPTER_ERRORS = (OSError, ValueError, RuntimeError, KeyError, TypeError, UserWarning, SafetensorError)


@dataclass(frozen=True)
class Options:
    """How models are loaded and read; the recipe's keys of the same names."""

    dtype: str = "auto"
    attn_implementation: str = "auto"
    quantization_bit: int | None = None  # 4 or 8: weights are quantized with bitsandbytes while they load
    batch_tokens: int | str = "auto"  # tokens of one forward pass
    # In bfloat16, to compute as LLaMA-Factory trains: products of matrices alone are in bfloat16, all else is
    # in the checkpoint's precision, or in float32.
    autocast: bool = False
    float32_weights: bool = False


def device() -> torch.device:
    """Where this worker computes: the CUDA device that it sees, an Apple GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def leave_out_cudnn_attention() -> None:
    """Take cuDNN's kernel out of what torch's SDPA chooses from, in this process.

    On Hopper and Blackwell it comes first since torch 2.11. Behind a mask its gradients can be NaN
    (pytorch issue 196678), and it prepares a plan for every new length, as each block of a pack and each
    step of sampling has.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


def attention_choices(options: Options) -> list[str | None]:
    """What to load a model with, first choice first; None leaves it to transformers.

    `auto` is flash attention where it is installed and can be used (not in float32), else SDPA, else
    eager. A name is that one.
    """
    if options.attn_implementation != "auto":
        return [options.attn_implementation]
    if device().type != "cuda" or dtype_name(options.dtype) == "float32":
        return [None]
    # The packages may be installed on a GPU that is too old for them.
    capability = torch.cuda.get_device_capability()
    usable = {
        "flash_attention_3": capability >= (9, 0) and is_flash_attn_3_available(),
        "flash_attention_2": capability >= (8, 0) and is_flash_attn_2_available(),
    }
    return [*(name for name, is_usable in usable.items() if is_usable), None]


def load_model(name: str, options: Options, auto_class: type = AutoModelForCausalLM) -> torch.nn.Module:
    """A model in evaluation mode on `device()`, from a folder or the Hub; an adapter loads with its base.

    `auto_class` is the class of transformers that knows how to load its kind.
    Raises BadInput where `name` holds no model of that kind, or one that can't be loaded this way.
    """
    leave_out_cudnn_attention()
    *first, last = attention_choices(options)
    for attention in first:
        with contextlib.suppress(ValueError, ImportError):  # a family that has no flash attention
            return _load(name, options, attention, auto_class)
    try:
        return _load(name, options, last, auto_class)
    except Exception as error:  # of any kind: what a config.json says is put to use in many places
        what = "causal LM" if auto_class is AutoModelForCausalLM else "reward model"
        raise BadInput(f"model {name!r} can't be loaded as a {what}: {first_line(error)}") from error


def _load(name: str, options: Options, attention: str | None, auto_class: type) -> torch.nn.Module:
    dtype = getattr(torch, dtype_name(options.dtype))
    as_trained = options.autocast and dtype == torch.bfloat16 and not options.quantization_bit
    model = whole_model(
        name,
        auto_class,
        dtype="auto" if as_trained else dtype,
        attn_implementation=attention,
        quantization_config=_quantization(options.quantization_bit, dtype),
        device_map={"": device()},
    )
    if as_trained:
        _round_matrices(model, options.float32_weights)
    return model.eval().requires_grad_(False)


def _round_matrices(model: torch.nn.Module, float32_weights: bool) -> None:
    """Make matrices bfloat16 for good, which autocast would do in every pass; all else float32 if asked."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is embedding.weight:
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if isinstance(module, torch.nn.Linear):
                parameter.data = parameter.data.bfloat16()
            elif float32_weights:
                parameter.data = parameter.data.float()


def whole_model(name: str, auto_class: type = AutoModelForCausalLM, **options: Any) -> torch.nn.Module:
    """A model whose weights are all from its checkpoint. `options` are those of `from_pretrained`.

    Raises ValueError for weights that a checkpoint lacks or has in another shape, which would be random
    numbers, and for a head that config.json denies.
    """
    model, found = auto_class.from_pretrained(
        name,
        **remote_code.model_options(),
        **options,
        ignore_mismatched_sizes=True,  # they are refused below, where they have names
        output_loading_info=True,
    )
    _refuse_missing(found["missing_keys"])
    for weight, saved, wanted in sorted(found["mismatched_keys"])[:1]:
        raise ValueError(f"its {weight} is {(*saved,)} in its weights, {(*wanted,)} by its config.json")
    if tied.differ(model):
        raise ValueError(f"its head and its embedding {tied.SAY_SO}")
    return model


def _refuse_missing(weights: Iterable[str]) -> None:
    """Raises ValueError for weights that a checkpoint lacks: they would be random numbers."""
    if missing := sorted(weights):
        raise ValueError(f"its weights lack {missing[0]} and {len(missing) - 1} more")


def _quantization(bits: int | None, dtype: torch.dtype) -> object | None:
    if bits is None:
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_8bit=bits == 8,
        load_in_4bit=bits == 4,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


class Models:
    """One model at a time. Models that are adapters on the same base share it.

    A policy that is an adapter on its reference is therefore loaded once, and its adapter switched
    on and off.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._base: str | None = None
        self._name = ""
        self._altered = False  # an adapter has changed the base's own weights
        self._model: torch.nn.Module | None = None  # the base, adapters injected where there are any
        self._adapters = None  # peft's view of it

    def holds(self, name: str) -> bool:
        """Whether a model can be used without loading a base."""
        if self._altered and name != self._name:
            return False
        return self._base == (base_of(name) or name)

    def use(self, name: str) -> torch.nn.Module:
        """The model of a folder or a Hub id: the same object as before where only the adapter differs."""
        base = base_of(name)
        if not self.holds(name):
            self._model = self._adapters = self._base = None
            free_memory()
            self._model = load_model(base or name, self._options)
            self._base, self._altered = base or name, False
        self._name = name
        if base:
            self._switch_to(name)
        elif self._adapters:
            self._adapters.base_model.disable_adapter_layers()
        return self._model

    def _switch_to(self, adapter: str) -> None:
        key = f"adapter_{hashlib.sha256(adapter.encode()).hexdigest()[:16]}"  # peft names modules by it
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Found missing adapter keys")
                self._load_adapter(adapter, key)
        except ADAPTER_ERRORS as error:
            reason = first_line(error)
            raise BadInput(f"adapter {adapter!r} can't be loaded onto {self._base!r}: {reason}") from error
        self._altered = alters_base(adapter)
        self._adapters.base_model.enable_adapter_layers()
        self._adapters.set_adapter(key)
        self._adapters.eval().requires_grad_(False)

    def _load_adapter(self, adapter: str, key: str) -> None:
        from peft import PeftConfig, PeftModel

        if self._adapters is not None and key in self._adapters.peft_config:
            return
        if pickle := only_pickles(adapter):
            raise ValueError(f"its weights are a pickle ({pickle}), which is not read")
        if PeftConfig.from_pretrained(adapter).is_prompt_learning:
            raise ValueError("it is a learned prompt; LoRA and its kin are supported")
        if self._adapters is None:
            self._adapters = PeftModel.from_pretrained(self._model, adapter, adapter_name=key)
        else:
            _refuse_missing(self._adapters.load_adapter(adapter, adapter_name=key).missing_keys)


def free_memory() -> None:
    """Give memory that nothing refers to any more back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def end_ids(name: str) -> list[int]:
    """Token ids that end a response according to the generation config of a model; sorted.

    An adapter without one has its base's. A model without one has what its config says.
    Raises BadInput where they are no numbers.
    """
    has_own = (resolve(name) / "generation_config.json").is_file()
    home = (None if has_own else base_of(name)) or model_path(name)
    try:
        try:
            config = GenerationConfig.from_pretrained(home)
        except OSError:  # there is none
            config = AutoConfig.from_pretrained(home, **remote_code.config_options())
            config = GenerationConfig.from_model_config(config)
    except Exception as error:  # of any kind: transformers puts its values to use at once
        reason = first_line(error)
        raise BadInput(f"model {name!r}: its generation_config.json can't be read: {reason}") from error
    eos = config.eos_token_id
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if not all(isinstance(token, int) for token in ids):
        raise BadInput(
            f"model {name!r}: eos_token_id in its generation config is {spelled(eos)}, not numbers"
        )
    return sorted(ids)
