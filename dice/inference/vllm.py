"""Sampling with vLLM.

The engine is kept full: requests are handed over while it still has others waiting, and answers are
given back as they come. A request asks for K answers, and its prompt is computed once (prefix
caching). vLLM gives child i of a request the seed `seed + i`, which is also what `Request` means by it.

A LoRA adapter is used on its base as it is, unmerged. Token ids go in and come out, so vLLM loads no
tokenizer; nothing but the end tokens is taken from a model's generation config.
"""

import difflib
import itertools
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dice.errors import BadInput, first_line
from dice.inference.sampler import Request, Sampled
from dice.launch.devices import dtype_name
from dice.models import remote_code
from dice.models.checkpoint import alters_base, base_of
from dice.models.loading import device, end_ids
from dice.recipe.groups import Generate
from dice.run.run import model_path

if TYPE_CHECKING:
    from vllm import LLMEngine, RequestOutput, SamplingParams
    from vllm.lora.request import LoRARequest

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the sizes that vLLM has room for
# Options of an adapter that change what it computes, and that vLLM refuses late or passes over silently.
BEYOND_VLLM = (
    "use_dora", "modules_to_save", "rank_pattern", "alpha_pattern", "lora_bias", "target_parameters",
    "trainable_token_indices", "layer_replication", "alora_invocation_tokens", "use_qalora",
)  # fmt: skip


class Sampler:
    """Samples `samples` responses per request from one model."""

    takes_stream = True

    def __init__(self, model: str, stop_ids: list[int], options: Generate, dtype: str) -> None:
        from vllm import EngineArgs, LLMEngine
        from vllm.exceptions import VLLMError
        from vllm.usage.usage_lib import UsageContext

        self.options = options
        try:
            self.stop_ids = sorted({*stop_ids, *end_ids(model)})
            sampling_params(options, self.stop_ids, seed=0, room=1)
            arguments = EngineArgs(**engine_arguments(model, options, dtype))
            # vLLM sizes its batches by this; without it they are the smallest, 128 rows on any GPU.
            self.engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
            self.adapter = _load_adapter(model, self.engine) if base_of(model) else None
        except (ValueError, TypeError, NotImplementedError, OSError, VLLMError) as error:
            raise BadInput(f"vLLM can't sample from {model!r}: {_reason(error)}") from error
        self.max_model_len = self.engine.model_config.max_model_len
        self.vocabulary = self.engine.model_config.get_vocab_size()
        # As many samples again as can run at once: whatever a step finishes, others take its place.
        self.backlog = 2 * self.engine.vllm_config.scheduler_config.max_num_seqs
        self._names = itertools.count()

    def sample(self, requests: Iterable[Request]) -> Iterator[Sampled]:
        """K responses for each request, in the order in which requests are done with."""
        from vllm.inputs.engine import tokens_input

        left = iter(requests)
        waiting: dict[str, Request] = {}
        while True:
            while self.engine.get_num_unfinished_requests() < self.backlog and (request := next(left, None)):
                name, room = str(next(self._names)), self.max_model_len - len(request.prompt_ids)
                waiting[name] = request
                params = sampling_params(self.options, self.stop_ids, request.seed, room)
                prompt = tokens_input(request.prompt_ids)
                self.engine.add_request(name, prompt, params, lora_request=self.adapter)
            if not waiting:
                return
            for output in self.engine.step():
                if output.finished:
                    yield from _answers(waiting.pop(output.request_id), output)


def sampling_params(options: Generate, stop_ids: list[int], seed: int, room: int) -> "SamplingParams":
    """What vLLM is asked for: K samples of at most `room` tokens.

    Raises ValueError where vLLM can't take an option.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=options.samples,
        seed=seed,
        temperature=options.temperature,
        top_p=options.top_p,
        max_tokens=min(options.max_new_tokens, room),
        stop_token_ids=stop_ids,
        ignore_eos=True,  # the stop ids are complete
        detokenize=False,
        logprobs=0,  # of the token that is taken, and no other
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _answers(request: Request, output: "RequestOutput") -> Iterator[Sampled]:
    for answer in output.outputs:
        if answer.finish_reason not in ("stop", "length"):
            raise RuntimeError(f"vLLM gave up on prompt {request.prompt_id}: {answer.finish_reason}")
        ids = list(answer.token_ids)
        logps = [step[token].logprob for token, step in zip(ids, answer.logprobs, strict=True)]
        yield Sampled(request.prompt_id, answer.index, ids, answer.finish_reason, logps)


def engine_arguments(model: str, options: Generate, dtype: str) -> dict[str, Any]:
    """vLLM's options for a model, or for the base of an adapter; the environment's are set, too.

    Raises BadInput for an option that vLLM does not have, and for an adapter that it would get wrong.
    """
    _refuse_unknown(options.engine_args)
    # The engine in this process, not in one of its own: that one would outlive a worker that is killed, and
    # keep the GPU's memory from the run that goes on.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    # Requests with seeds of their own, as all of ours are, never use FlashInfer's sampler; but starting would
    # compile it, which fails where there is no nvcc.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    base = base_of(model)
    arguments = {
        "model": base or model,
        "runner": "generate",
        "load_format": "safetensors",
        **remote_code.config_options(),
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        "dtype": dtype_name(dtype),
        "tensor_parallel_size": options.tensor_parallel,
        "enable_prefix_caching": True,
        "max_model_len": options.max_model_len,
        "disable_log_stats": True,
        "logprobs_mode": "raw_logprobs",  # before temperature
    }
    if base:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _lora_rank(model)}
    if device().type == "cpu":
        arguments |= _cpu_arguments(base or model, {**arguments, **options.engine_args})
    return {**arguments, **options.engine_args}


def _refuse_unknown(engine_args: dict[str, Any]) -> None:
    from vllm import EngineArgs

    known = EngineArgs.__dataclass_fields__
    for name in engine_args:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise BadInput(f"generate.engine_args: vLLM's engine has no option {name!r}{hint}")


def _lora_rank(adapter: str) -> int:
    """The rank that vLLM must make room for. Raises BadInput for an adapter that it would get wrong."""
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(adapter)
    odd = [name for name in BEYOND_VLLM if getattr(config, name, None)]
    if alters_base(adapter):
        odd.append("bias or init_lora_weights, which change the base")
    if config.peft_type != "LORA":
        odd = [f"peft_type {config.peft_type}"]
    if odd or config.r > LORA_RANKS[-1]:
        what = odd[0] if odd else f"rank {config.r}"
        raise BadInput(
            f"vLLM can't use the adapter {adapter!r} ({what}): use generate.engine=hf, or a merged model"
        )
    return next(rank for rank in LORA_RANKS if rank >= config.r)


def _load_adapter(adapter: str, engine: "LLMEngine") -> "LoRARequest":
    from vllm.lora.request import LoRARequest

    request = LoRARequest("policy", 1, model_path(adapter))
    engine.add_lora(request)
    return request


def _cpu_arguments(model: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What vLLM needs on a CPU for a quick start and for seeds per request.

    Its CPU sampler refuses a request's seed as soon as a prompt is prefilled in chunks, so chunking
    is off and a batch always has room for the longest prompt.
    """
    from transformers import AutoConfig

    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    config = AutoConfig.from_pretrained(model, **remote_code.config_options()).get_text_config()
    limit = arguments["max_model_len"] or getattr(config, "max_position_embeddings", 4096)
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(limit, 8192),
        "max_model_len": limit,
    }


def _reason(error: Exception) -> str:
    """An error in one line; one of pydantic's names the option and what is wrong with it."""
    if callable(details := getattr(error, "errors", None)):
        first = details()[0]
        text = ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
    else:
        text = first_line(error)
    return text if len(text) < 240 else text.split(". ")[0]
