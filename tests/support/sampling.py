"""Requests for a sampler, and what came back, by prompt and sample."""

from dice.inference.load import load_sampler
from dice.inference.sampler import Request
from dice.recipe.groups import Generate

PROMPTS = ["Name two birds.", "Tell me four metals except tin, please.", "Which three rooms do you know?"]


def requests(chat, prompts=PROMPTS):
    return [
        Request(text, chat.encode_prompt([{"role": "user", "content": text}]), 1000 * i)
        for i, text in enumerate(prompts)
    ]


def sampler(engine, model, chat, **options):
    options = {"samples": 3, "max_new_tokens": 12, "temperature": 1.0, **options}
    return load_sampler(engine)(
        str(model), list(chat.stop_ids), Generate().model_copy(update=options), "float32"
    )


def answers(sampled):
    return {(s.prompt_id, s.sample): s for s in sampled}


def said(sampled):
    """Their token ids alone: the rounding of log-probs depends on what is computed beside a response."""
    return {(s.prompt_id, s.sample): s.response_ids for s in sampled}
