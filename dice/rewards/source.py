"""The sources of rewards, and what they share: which responses get one, where scores are written."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dice.errors import BadInput
from dice.inference.load import load_chat
from dice.launch.progress import Counter
from dice.models.reference_table import response_hash
from dice.recipe.keys import Recipe
from dice.recipe.paths import is_function
from dice.run import files
from dice.run.rows import Dropped, Logps, Message, Prompt, Response, Score
from dice.run.run import Run


class SourceInfo(NamedTuple):
    """What a source is called, and where it is."""

    module: str  # of this package
    title: str
    unit: str  # what its rewards are counted in
    counted: str  # what the progress bar counts


SOURCES = {
    "implicit": SourceInfo("implicit", "implicit rewards", "nats", "log-probs"),
    "reward_model": SourceInfo("reward_model", "rewards of the reward model", "points", "rewards"),
    "judge": SourceInfo("judge", "rewards of the judge", "grades", "responses"),
    "random": SourceInfo("chance", "random rewards", "points", "responses"),
}
FUNCTION = SourceInfo("function", "rewards of a function", "points", "responses")


def source_of(recipe: Recipe) -> SourceInfo:
    """The source of a recipe's rewards."""
    found = FUNCTION if is_function(recipe.score.reward) else SOURCES[recipe.score.reward]
    return found._replace(unit="nats per token") if recipe.score.normalize == "tokens" else found


READING = ("batch_tokens", "attn_implementation", "quantization_bit")  # how models are loaded and read


def reading(recipe: Recipe) -> dict[str, Any]:
    """How models are loaded and read, as options of `dice.inference.scorer.Options`."""
    return {"dtype": recipe.dtype, **{key: getattr(recipe.score, key) for key in READING}}


def responses_of(run: Run, t: int) -> list[Path]:
    """The shards of responses of round t."""
    return files.shards(run.round_dir(t) / "responses")


def beside(shard: Path, what: str) -> Path:
    """Where something that belongs to a shard of responses lies: `part` are its scores."""
    return shard.parent.parent / "scores" / shard.name.replace("part", what)


def unusable(response: Response, recipe: Recipe) -> str | None:
    """Why a response is not scored, as far as its text tells, or None."""
    if response.finish_reason == "length":
        return "cut off at the length limit"
    if response.n_chars < recipe.pair.min_chars:
        return f"under {recipe.pair.min_chars} characters"
    if response.n_chars > recipe.pair.max_chars:
        return f"over {recipe.pair.max_chars:,} characters"
    return None


class Usable(NamedTuple):
    """A response that gets a reward, with its prompt, as texts and as the policy's token ids."""

    prompt_id: str
    sample: int
    n_chars: int
    messages: list[Message]
    response: str
    prompt_ids: list[int]
    response_ids: list[int]
    logp: float | None  # the engine's


class Scoring:
    """A worker's part of round t: its responses and where their scores go. Sources say what the rewards are.

    `passes` is how often a source looks at a response of a round, `written` what a shard has in scores/ when
    it is done.
    With `per_token`, scores/tokens-*.jsonl is written too, by a source that knows of tokens.
    """

    written: tuple[str, ...] = ("part", "dropped")

    def __init__(self, run: Run, t: int, counter: Counter, per_token: bool = False) -> None:
        self.t, self.recipe, self.counter, self.per_token = t, run.recipe, counter, per_token
        prompts = files.read_rows(run.round_dir(t) / "prompts.jsonl", Prompt)
        self.prompts = {prompt.prompt_id: prompt.messages for prompt in prompts}
        self.chat = load_chat(self.recipe.generate.engine, run.policy(t), self.recipe.encoding)

    @staticmethod
    def passes(run: Run, t: int) -> int:
        return 1

    def rewards(self, shard: Path, rows: list[Usable]) -> Sequence[float | str]:
        """The reward of each response, or why it gets none; `self.counter` is told of each."""
        raise NotImplementedError

    def score(self, shards: list[Path]) -> None:
        """Score shards of responses. A shard's scores are written last, since they say that it is done."""
        for shard in shards:
            kept, dropped = self.usable(shard)
            scores = []
            for row, reward in zip(kept, self.rewards(shard, kept), strict=True):
                if isinstance(reward, str):
                    dropped.append(Dropped(row.prompt_id, row.sample, reward))
                else:
                    scores.append(score_of(shard, row, reward))
            files.write_shard(beside(shard, "dropped"), dropped)
            files.write_shard(beside(shard, "part"), scores)

    def usable(self, shard: Path) -> tuple[list[Usable], list[Dropped]]:
        """The responses of a shard in their order, and the others."""
        kept, dropped = [], []
        limit = self.recipe.score.cutoff_len
        for response in files.read_rows(shard, Response):
            key, text = (response.prompt_id, response.sample), response.response
            reason = unusable(response, self.recipe)
            if not reason:
                messages = self._messages(response, shard)
                ids = self._ids(response, messages, shard)
                row = Usable(*key, response.n_chars, messages, text, *ids, response.logp)
                if len(row.prompt_ids) + len(row.response_ids) <= limit:
                    kept.append(row)
                    continue
                reason = f"over {limit:,} tokens with their prompt"
            dropped.append(Dropped(*key, reason))
        self.counter.add(len(dropped))
        return kept, dropped

    def _ids(self, response: Response, messages: list[Message], shard: Path) -> tuple[list[int], list[int]]:
        """Token ids of prompt and response: those that were sampled. Raises BadInput for what is none."""
        sampled = response.response_ids
        if sampled is not None and min(sampled, default=-1) < 0:
            where = f"{shard}: prompt {response.prompt_id} sample {response.sample}"
            raise BadInput(f"{where}: its response_ids must be token ids, at least one")
        return self.chat.encode(messages, response.response, sampled)

    def _messages(self, response: Response, shard: Path) -> list[Message]:
        try:
            return self.prompts[response.prompt_id]
        except KeyError:
            raise BadInput(f"{shard}: prompt {response.prompt_id} is not in prompts.jsonl") from None


def score_of(
    shard: Path, row: Usable | Logps, reward: float, logps: tuple[float | None, ...] = (None, None)
) -> Score:
    """The row to write; `logps` are the policy's and the reference's, then perhaps the policy's once more.

    Raises BadInput for a reward that is not finite.
    """
    if not math.isfinite(reward):
        where = f"{shard}: prompt {row.prompt_id} sample {row.sample}"
        raise BadInput(f"{where}: its reward is {reward}; it must be finite")
    return Score(
        prompt_id=row.prompt_id,
        sample=row.sample,
        ids_hash=response_hash(row.prompt_ids, row.response_ids),
        n_chars=row.n_chars,
        n_tokens=len(row.response_ids),
        logp_policy=logps[0],
        logp_ref=logps[1],
        reward=reward,
        logp_check=logps[2] if len(logps) > 2 else None,
    )


class Asked(NamedTuple):
    """A question for the judge, the last turn of `messages`; answer i has the seed `seed + i`."""

    key: str
    messages: list[Message]
    seed: int


class Judge(Protocol):
    """Whoever answers."""

    is_heard: bool  # whether it is known to answer, so that a refused question is no sign of a fault

    def ask(self, questions: list[Asked], on_answered: Callable[[int, list[str]], None]) -> None:
        """Calls `on_answered` with the index of each question as soon as it is done, and its answers.

        They are fewer than asked for where some, or all, did not come.
        """
        ...
