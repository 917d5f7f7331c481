"""Stage 1.1: K responses to each prompt, sampled from the round's policy.

Prompts become shards, fixed slices of the prompt list; each shard is written whole once its last
response is there. Sample i of a prompt has the seed `seed_of(recipe seed, round, prompt_id) + i`.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dice import launch, registry, sources, store
from dice.console import Counter
from dice.engines import Request, Sampled, Sampler, load_chat, load_sampler
from dice.errors import BadInput
from dice.recipe import Recipe
from dice.schema import Prompt, Response
from dice.stage import Outcome, Stage
from dice.store import Run, open_run
from dice.worker import Worker

UNANSWERED = "prompts too long for the model"  # the reason that this stage drops a prompt for


def seed_of(seed: int, t: int, name: str) -> int:
    """A seed for `name` (a prompt_id) in round t, below 2**52 so that JSON readers keep it exact."""
    digest = hashlib.sha256(f"{seed}/{t}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 12


def sample_shard(
    prompts: list[Prompt], seeds: list[int], chat: Any, sampler: Sampler, counter: Counter
) -> list[Response]:
    """The responses to some prompts, by prompt and sample.

    A prompt that leaves no room for a response under the model's limit gets none.
    """
    requests = [
        Request(prompt.prompt_id, chat.encode_prompt(prompt.messages), seed)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    fitting = [request for request in requests if len(request.prompt_ids) < sampler.max_model_len]
    order = {prompt.prompt_id: position for position, prompt in enumerate(prompts)}
    seed_by_prompt = {request.prompt_id: request.seed for request in requests}
    responses = []
    for sampled in sampler.sample(fitting):
        responses.append(_response(sampled, chat, seed_by_prompt[sampled.prompt_id] + sampled.sample))
        counter.add(1)
    return sorted(responses, key=lambda response: (order[response.prompt_id], response.sample))


def _response(sampled: Sampled, chat: Any, seed: int) -> Response:
    said = sampled.response_ids[:-1] if sampled.finish_reason == "stop" else sampled.response_ids
    text = chat.decode(said)
    return Response(
        prompt_id=sampled.prompt_id,
        sample=sampled.sample,
        response=text,
        n_chars=len(text),
        n_tokens=len(sampled.response_ids),
        finish_reason=sampled.finish_reason,
        seed=seed,
    )


def sample_shards(
    worker: Worker, recipe: Recipe, model: str, prompts: list[Prompt], folder: Path, t: int, counter: Counter
) -> None:
    """Answer a worker's share of the prompts' shards, those that exist in `folder` left alone."""
    options = recipe.generate
    starts = range(0, len(prompts), options.shard_size)
    mine = worker.share([(shard, start) for shard, start in enumerate(starts)])
    todo = {
        store.shard_path(folder, shard): prompts[start : start + options.shard_size]
        for shard, start in mine
        if not store.shard_path(folder, shard).exists()
    }
    counter.expect(sum(map(len, todo.values())) * options.samples)
    if not todo:
        return
    chat = load_chat(options.engine, model, recipe.template)
    sampler = load_sampler(options.engine)(model, list(chat.stop_ids), options, recipe.dtype)
    for path, part in todo.items():
        seeds = [seed_of(recipe.seed, t, prompt.prompt_id) for prompt in part]
        store.write_rows(path, sample_shard(part, seeds, chat, sampler, counter))


def work(worker: Worker, run_dir: str, t: str) -> None:
    """A worker's part of round t."""
    run, number = open_run(run_dir), int(t)
    folder = run.round_dir(number)
    prompts = list(store.read_rows(folder / "prompts.jsonl", Prompt))
    model, counter = run.policy(number), worker.counter()
    sample_shards(worker, run.recipe, model, prompts, folder / "responses", number, counter)


def _inputs(run: Run, t: int) -> dict[str, str]:
    if t > 1 and not (run.round_dir(t - 1) / "train.manifest.json").exists():
        raise BadInput(f"{run.round_dir(t - 1)}: round {t - 1} has no model yet; finish it first")
    recipe = run.recipe
    return {
        "prompts": registry.digest(recipe.dataset_dir, recipe.prompts),
        "policy": store.model_digest(run.policy(t)),
    }


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = run.recipe
    own = {"seed": recipe.seed, "template": recipe.template, "dtype": recipe.dtype}
    return {**own, "generate": asdict(recipe.generate)}


def _run(run: Run, t: int) -> Outcome:
    folder, recipe = run.round_dir(t), run.recipe
    prompts, dropped = sources.read_prompts(recipe.dataset_dir, recipe.prompts)
    rows_read = len(prompts) + dropped.total()
    store.write_rows(folder / "prompts.jsonl", prompts)
    launch.run_workers("generate", folder, [str(run.path), str(t)], "responses")

    rows = tokens = cut_off = 0
    answered = set()
    for path in store.shards(folder / "responses"):
        for response in store.read_rows(path, Response):
            rows, tokens = rows + 1, tokens + response.n_tokens
            cut_off += response.finish_reason == "length"
            answered.add(response.prompt_id)
    dropped[UNANSWERED] = len(prompts) - len(answered)
    if not rows:
        raise BadInput(f"{folder}: no response was sampled; every prompt is too long for the model")
    return Outcome(
        rows_in=rows_read,
        rows_out=rows,
        summary=f"{rows:,} responses to {len(answered):,} prompts, {tokens / rows:.0f} tokens on average",
        dropped=dict(dropped),
        figures={"tokens": tokens, "cut_off": cut_off},
    )


STAGE = Stage("generate", _inputs, _settings, ("prompts.jsonl", "responses"), _run)
