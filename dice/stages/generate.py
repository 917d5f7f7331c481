"""Stage 1.1: K responses to each prompt, sampled from the round's policy.

Prompts become shards, fixed slices of the prompt list. Workers take them as they become free,
hand them to an engine each, and write a shard, whole, as soon as its last response is there. Sample i
of a prompt has the seed `seed_of(recipe seed, round, prompt_id) + i`.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dice.data import dataset_info
from dice.data.prompt_sets import read_round
from dice.errors import BadInput, StageFailed, counted
from dice.inference.load import dtype_of, load_chat, load_sampler
from dice.inference.sampler import Request, Sampled, Sampler
from dice.launch import processes
from dice.launch.processes import Workers
from dice.launch.progress import Counter
from dice.launch.worker import Claims, Worker
from dice.models import remote_code
from dice.recipe.keys import Recipe
from dice.recipe.seeds import seed_of
from dice.run import files
from dice.run.digests import model_digest
from dice.run.rows import Prompt, Response, UnreadResponse
from dice.run.run import Run, open_run
from dice.run.stage import Outcome, Stage, makers

UNANSWERED = "prompts too long for the model"  # the reason that this stage drops a prompt for


class Shard:
    """Some prompts, where the responses to them go, and those that are there already."""

    def __init__(self, path: Path, prompts: list[Prompt]) -> None:
        self.path, self.prompts = path, prompts
        self.left = len(prompts)  # prompts that are neither answered nor dropped
        self.responses: list[Response] = []

    def prompt_done(self) -> None:
        """Write the shard after its last prompt, in the order of the prompts and of their samples."""
        self.left -= 1
        if not self.left:
            order = {prompt.prompt_id: position for position, prompt in enumerate(self.prompts)}
            self.responses.sort(key=lambda response: (order[response.prompt_id], response.sample))
            files.write_shard(self.path, self.responses)


@dataclass
class _Asked:
    """A prompt that the sampler has."""

    prompt: Prompt
    prompt_ids: list[int]
    seed: int  # of its first sample
    shard: Shard
    left: int  # samples still to come


class Answering:
    """Shards through a sampler: prompts become requests, samples become responses."""

    def __init__(self, recipe: Recipe, t: int, chat: Any, sampler: Sampler, counter: Counter) -> None:
        self.recipe, self.t, self.chat, self.sampler, self.counter = recipe, t, chat, sampler, counter
        self.asked: dict[str, _Asked] = {}  # by prompt_id

    def run(self, shards: Iterable[Shard]) -> None:
        """Answer shards and write them; in memory are those that the sampler is at work on.

        Raises BadInput for prompts that the model can't read.
        """
        streams = [shards] if self.sampler.takes_stream else ([shard] for shard in shards)
        for stream in streams:
            for sampled in self.sampler.sample(self._requests(stream)):
                self._take(sampled)
        self.counter.write()

    def _requests(self, shards: Iterable[Shard]) -> Iterator[Request]:
        """The prompts as the sampler wants them, without those that leave no room for a response."""
        recipe, limit = self.recipe, self.sampler.max_model_len
        for shard in shards:
            for prompt in shard.prompts:
                prompt_ids = self._encode(prompt)
                if len(prompt_ids) >= limit:
                    print(f"dropped prompt {prompt.prompt_id}: {len(prompt_ids):,} tokens of {limit:,}")
                    self.counter.add(1)
                    shard.prompt_done()
                    continue
                seed = seed_of(recipe.seed, self.t, prompt.prompt_id)
                asked = _Asked(prompt, prompt_ids, seed, shard, recipe.generate.samples)
                self.asked[prompt.prompt_id] = asked
                yield Request(prompt.prompt_id, prompt_ids, seed)

    def _encode(self, prompt: Prompt) -> list[int]:
        prompt_ids = self.chat.encode_prompt(prompt.messages)
        if (largest := max(prompt_ids)) >= self.sampler.vocabulary:
            raise BadInput(
                f"prompt {prompt.prompt_id} has token id {largest:,}, but the policy has embeddings for ids "
                f"below {self.sampler.vocabulary:,} only: its tokenizer or template "
                f"{self.recipe.template!r} does not fit it"
            )
        return prompt_ids

    def _take(self, sampled: Sampled) -> None:
        asked = self.asked[sampled.prompt_id]
        asked.shard.responses.append(self._response(sampled, asked))
        asked.left -= 1
        self.counter.add(0 if asked.left else 1, len(sampled.response_ids))
        if not asked.left:
            del self.asked[sampled.prompt_id]
            asked.shard.prompt_done()

    def _response(self, sampled: Sampled, asked: _Asked) -> Response:
        """The row to write, with the token ids of a whole response whose text is encoded otherwise."""
        ids, is_whole = sampled.response_ids, sampled.finish_reason == "stop"
        text = self.chat.decode(ids[:-1] if is_whole else ids)
        encoded = self.chat.encode(asked.prompt.messages, text) if is_whole else None
        return Response(
            prompt_id=sampled.prompt_id,
            sample=sampled.sample,
            response=text,
            n_chars=len(text),
            n_tokens=len(ids),
            finish_reason=sampled.finish_reason,
            seed=asked.seed + sampled.sample,
            response_ids=None if encoded in (None, (asked.prompt_ids, ids)) else ids,
            logp=math.fsum(sampled.logps),
            token_logps=sampled.logps if self.recipe.generate.token_logps else None,
        )


def unfinished(claims: Claims, prompts: Path, folder: Path, size: int) -> Iterator[Shard]:
    """The shards of `size` prompts that `folder` lacks and no other worker has taken, read one by one."""
    rows = files.read_rows(prompts, Prompt)
    for number in itertools.count():
        part = list(itertools.islice(rows, size))
        if not part:
            return
        path = files.shard_path(folder, number)
        # In this order: another may have just written it.
        if claims.take(number) and not files.is_shard(path):
            yield Shard(path, part)


def count_unfinished(prompts: Path, folder: Path, size: int) -> int:
    """The number of prompts in shards that `folder` lacks."""
    count = files.count_rows(prompts)
    missing = (
        min(size, count - start)
        for number, start in enumerate(range(0, count, size))
        if not files.is_shard(files.shard_path(folder, number))
    )
    return sum(missing)


def finished_shards(folder: Path, count: int, size: int) -> list[Path]:
    """The shards of `count` prompts, once their workers are done; what else looks like one is removed.

    Raises StageFailed where one is missing.
    """
    paths = [files.shard_path(folder, number) for number in range(math.ceil(count / size))]
    for stray in {*files.shards(folder)} - {*paths}:
        files.remove(stray)
    for path in paths:
        if not path.is_file():
            raise StageFailed(f"{path} is missing, which a worker wrote; the same command makes it again")
    return paths


@dataclass(frozen=True)
class Part:
    """Prompts that are answered alike: as the recipe's `generate` says, into the shards of a folder."""

    recipe: Recipe
    prompts: Path
    folder: Path

    @property
    def shard_size(self) -> int:
        return self.recipe.generate.shard_size


def sample_parts(worker: Worker, model: str, parts: list[Part], t: int, counter: Counter) -> None:
    """Answer a worker's share of the shards of some parts, those that exist left alone.

    The model is loaded once, where there is anything to do: the parts may differ in how they are sampled
    (temperature, top_p, ...), not in the engine's own options.
    """
    if worker.rank == 0:  # any worker may get any shard, so one of them counts them all
        counter.expect(sum(count_unfinished(part.prompts, part.folder, part.shard_size) for part in parts))
    claims = [worker.claims(part.folder.name) for part in parts]  # kept until the last shard is written
    chat = sampler = None
    for part, claim in zip(parts, claims, strict=True):
        shards = unfinished(claim, part.prompts, part.folder, part.shard_size)
        first = next(shards, None)
        if first is None:
            continue
        options = part.recipe.generate
        if sampler is None:
            remote_code.allow(part.recipe.trust_remote_code)
            chat = load_chat(options.engine, model, part.recipe.encoding)
            sampler = load_sampler(options.engine)(model, list(chat.stop_ids), options, part.recipe.dtype)
        sampler.options = options
        Answering(part.recipe, t, chat, sampler, counter).run(itertools.chain([first], shards))


def sample_shards(
    worker: Worker, recipe: Recipe, model: str, prompts: Path, folder: Path, t: int, counter: Counter
) -> None:
    """Answer a worker's part of the shards of a prompts file; those that exist in `folder` are left alone."""
    sample_parts(worker, model, [Part(recipe, prompts, folder)], t, counter)


def work(worker: Worker, run_dir: str, t: str) -> None:
    """A worker's part of round t."""
    run, number = open_run(run_dir), int(t)
    folder = run.round_dir(number)
    prompts, responses = folder / "prompts.jsonl", folder / "responses"
    sample_shards(worker, run.recipe, run.policy(number), prompts, responses, number, worker.counter())


def _inputs(run: Run, t: int) -> dict[str, str]:
    recipe = run.recipe
    return {
        "prompts": dataset_info.digest(recipe.dataset_dir, recipe.prompt_set(t)),
        "policy": model_digest(run.policy(t)),
    }


def sampling_settings(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that responses depend on; on how many GPUs they are sampled is none of it."""
    unsaid = () if recipe.generate.token_logps else ("token_logps",)  # as in runs of earlier versions
    options = recipe.generate.model_dump(exclude={"tensor_parallel", *unsaid})
    own = {"seed": recipe.seed, **recipe.encoding_settings(), "dtype": recipe.dtype}
    return {**own, "generate": options}


def _settings(run: Run, t: int) -> dict[str, Any]:
    return sampling_settings(run.recipe) | run.recipe.said("prompts_per_round")


def _workers(run: Run, t: int) -> Workers:
    arguments = [str(run.path), str(t)]
    return Workers(__name__, run.round_dir(t), arguments, "prompts", run.recipe.generate.tensor_parallel)


def _run(run: Run, t: int) -> Outcome:
    folder, recipe = run.round_dir(t), run.recipe
    prompts, dropped = read_round(recipe, t)
    count = len(prompts)
    files.write_rows(folder / "prompts.jsonl", prompts)
    del prompts  # texts: the workers need the memory
    processes.run_workers(*_workers(run, t))

    rows = tokens = cut_off = answered = ids_kept = 0
    rows_read = count + dropped.total()
    for path in finished_shards(folder / "responses", count, recipe.generate.shard_size):
        in_shard = set()
        for response in files.read_rows(path, UnreadResponse):
            rows, tokens = rows + 1, tokens + response.n_tokens
            cut_off += response.finish_reason == "length"
            ids_kept += bool(response.response_ids)
            in_shard.add(response.prompt_id)
        answered += len(in_shard)
    dropped[UNANSWERED] = count - answered
    if not rows:
        raise BadInput(f"{folder}: no response was sampled; every prompt is too long for the model")
    return Outcome(
        rows_in=rows_read,
        rows_out=rows,
        summary=f"{counted(rows, 'response')} to {counted(answered, 'prompt')}, "
        f"{tokens / rows:.0f} tokens on average",
        dropped=dict(dropped),
        figures={"tokens": tokens, "cut_off": cut_off, "ids_kept": ids_kept, **dtype_of(recipe)},
    )


STAGE = Stage(
    "generate",
    _inputs,
    _settings,
    outputs=("prompts.jsonl", "responses"),
    run=_run,
    shards="responses",
    needs=lambda run, t: makers(t - 1),
    given=lambda run, t: {
        "prompts": "prompts" if len(run.recipe.prompt_sets) == 1 else f"prompts.{t}",
        **run.given(t),
    },
    launches=lambda run, t: [_workers(run, t).launch()],
)
