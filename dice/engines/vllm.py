"""Sampling with vLLM.

All prompts handed over at once share one engine, with n = K and prefix caching. vLLM gives child i
of a request the seed `seed + i`, which is also what `Request` means by it.
"""

import os
from collections.abc import Iterator

from dice.engines import Request, Sampled
from dice.errors import BadInput
from dice.models import device, dtype_name
from dice.recipe import Generate


class Sampler:
    """Samples `samples` responses per request from one model."""

    def __init__(self, model: str, stop_ids: list[int], options: Generate, dtype: str) -> None:
        arguments = {
            "model": model,
            "dtype": dtype_name(dtype),
            "enable_prefix_caching": True,
            "max_model_len": options.max_model_len,
            "disable_log_stats": True,
        }
        if device().type == "cpu":
            arguments |= _cpu_arguments(model, options)
        from vllm import LLM

        try:
            self.engine = LLM(**{**arguments, **options.engine_args})
        except (ValueError, TypeError) as error:
            raise BadInput(f"vLLM can't load {model!r}: {str(error).splitlines()[0]}") from error
        self.max_model_len = self.engine.llm_engine.model_config.max_model_len
        self.options, self.stop_ids = options, stop_ids

    def sample(self, requests: list[Request]) -> Iterator[Sampled]:
        """The requests' responses, K for each, in the order of the requests."""
        from vllm import SamplingParams

        prompts = [{"prompt_token_ids": request.prompt_ids} for request in requests]
        params = [
            SamplingParams(
                n=self.options.samples,
                seed=request.seed,
                temperature=self.options.temperature,
                top_p=self.options.top_p,
                max_tokens=min(self.options.max_new_tokens, self.max_model_len - len(request.prompt_ids)),
                stop_token_ids=self.stop_ids,
                detokenize=False,
            )
            for request in requests
        ]
        outputs = self.engine.generate(prompts, params, use_tqdm=False)
        for request, output in zip(requests, outputs, strict=True):
            for answer in output.outputs:
                reason = "stop" if answer.finish_reason == "stop" else "length"
                yield Sampled(request.prompt_id, answer.index, list(answer.token_ids), reason)


def _cpu_arguments(model: str, options: Generate) -> dict[str, object]:
    """What vLLM needs on a CPU for a quick start and for seeds per request.

    Its CPU sampler refuses a request's seed as soon as a prompt is prefilled in chunks, so chunking
    is off and a batch always has room for the longest prompt.
    """
    from transformers import AutoConfig

    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    config = AutoConfig.from_pretrained(model)
    limit = options.max_model_len or getattr(config, "max_position_embeddings", 4096)
    return {
        "enforce_eager": True,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(limit, 8192),
        "max_model_len": limit,
    }
