"""What vLLM answers in many situations, found in a process of its own."""

import json
import os
from pathlib import Path

from dice.errors import BadInput
from dice.inference.load import load_sampler
from dice.inference.sampler import Request
from dice.models.chat_template import load_chat
from dice.recipe.groups import Generate

NEW_TOKENS = 24
END_IDS = (5, 7)  # of the model with a generation config
BAD_ENGINE_ARGS = {
    "temprature": 1,
    "max_nun_seqs": 8,
    "gpu_memory_utilization": 1.5,
    "max_num_seqs": "many",
    "quantization": "nope",
}


def requests(chat):
    """Forty prompts of different lengths."""
    texts = [f"Name {n} birds of colour {7 * n}" + " please" * (n % 9) for n in range(40)]
    return [
        Request(f"p{n}", chat.encode_prompt([{"role": "user", "content": text}]), 1000 * n)
        for n, text in enumerate(texts)
    ]


def make_sampler(engine, model, chat, **options):
    options = {
        "samples": 4,
        "max_new_tokens": NEW_TOKENS,
        "temperature": 1.0,
        "max_model_len": 256,
        **options,
    }
    return load_sampler(engine)(
        str(model), list(chat.stop_ids), Generate().model_copy(update=options), "float32"
    )


def answers(sampled):
    """{"prompt sample": [ids, reason]}"""
    return {f"{s.prompt_id} {s.sample}": [s.response_ids, s.finish_reason] for s in sampled}


def lab(folder: str, output: str) -> None:
    """In a process of its own: what vLLM answers, into a JSON file."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB of each engine: they are all in memory at the end
    models = Path(folder)
    chat, found = load_chat(f"{folder}/plain", "llama3-custom"), {}

    def vllm(model, **options):
        return make_sampler("vllm", models / model, chat, **options)

    def message(model, **options):
        try:
            return str(vllm(model, **options))
        except BadInput as error:
            return str(error)

    plain = vllm("plain")
    found["rows at once"] = plain.engine.vllm_config.scheduler_config.max_num_seqs
    found["plain"] = answers(plain.sample(requests(chat)))
    found["second half alone"] = answers(plain.sample(requests(chat)[20:]))
    found["one by one"] = {}
    for request in requests(chat)[:5]:
        found["one by one"] |= answers(plain.sample([request]))
    few = vllm("plain", engine_args={"max_num_seqs": 4})
    found["four at a time, backwards"] = answers(few.sample(iter(requests(chat)[::-1])))
    found["lazily"] = laziness(few, chat)
    found["stopped and gone on with"], found["preemptions"] = with_little_room(vllm)
    found["greedy"] = answers(vllm("plain", samples=1, temperature=0.0).sample(requests(chat)))
    found["top_p"] = [answers(vllm("plain", top_p=0.7).sample(requests(chat)[::step])) for step in (1, -1)]
    for model in ("ends", "adapter", "merged"):
        found[model] = answers(vllm(model).sample(requests(chat)))
    found["complaints"] = {
        key: message("plain", engine_args={key: value}) for key, value in BAD_ENGINE_ARGS.items()
    }
    for model in ("bert", "dora", "ranks", "pissa"):
        found["complaints"][model] = message(model)
    found["complaints"]["temperature"] = message("plain", temperature=5.0)
    found["complaints"]["context"] = message("plain", max_model_len=1 << 20)
    Path(output).write_text(json.dumps(found))


def laziness(sampler, chat):
    """How many requests the engine has been given by the time of its first answer."""
    given = []

    def feed():
        for request in requests(chat):
            given.append(request)
            yield request

    next(sampler.sample(feed()))
    count = len(given)
    sampler.engine.abort_request([str(number) for number in range(1000)])
    return count


def with_little_room(vllm):
    """Long answers with a cache that is too small for them all; how often that stopped one."""
    stopped = []
    sampler = vllm("plain", max_new_tokens=180, engine_args={"num_gpu_blocks_override": 12})
    scheduler = sampler.engine.engine_core.engine_core.scheduler
    preempt = scheduler._preempt_request
    scheduler._preempt_request = lambda *args, **kwargs: (stopped.append(1), preempt(*args, **kwargs))[1]
    chat = load_chat(sampler.engine.model_config.model, "llama3-custom")
    found = answers(sampler.sample(requests(chat)[:12]))
    roomy = answers(vllm("plain", max_new_tokens=180).sample(requests(chat)[:12]))
    return [found, roomy], len(stopped)
