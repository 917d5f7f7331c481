"""What every source of rewards shares: the job of a worker, and the responses that get a reward."""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dice.errors import BadInput
from dice.inference.load import load_chat
from dice.launch.progress import Counter
from dice.models.reference_table import response_hash
from dice.run import files
from dice.run.rows import Dropped, Message, Prompt, Response, Score


@dataclass(frozen=True)
class Job:
    """What workers need to know. Everything from `engine` on is the recipe's."""

    folder: str
    policy: str
    reference: str
    reward_model: str
    engine: str
    template: str
    dtype: str
    attn_implementation: str
    quantization_bit: int | None
    batch_tokens: int | str
    cutoff_len: int  # tokens of prompt plus response
    min_chars: int
    max_chars: int
    trust_remote_code: bool = False
    reward: str = "implicit"
    seed: int = 0
    round: int = 0  # seeds depend on it
    judge: dict[str, Any] = field(default_factory=dict)  # what it needs to know
    per_token: bool = False  # also write scores/tokens-*.jsonl, where the source knows of tokens

    @property
    def source(self) -> Any:
        """The module that the rewards come from."""
        return importlib.import_module(f"dice.rewards.{MODULES.get(self.reward, self.reward)}")

    def shards(self) -> list[Path]:
        return files.shards(Path(self.folder) / "responses")

    def beside(self, shard: Path, what: str) -> Path:
        """Where something that belongs to a shard of responses lies: `part` are its scores."""
        return Path(self.folder) / "scores" / shard.name.replace("part", what)


MODULES = {"random": "chance"}  # sources whose module has another name than the recipe gives them
READING = ("batch_tokens", "attn_implementation", "quantization_bit")  # how models are loaded and read


def unusable(response: Response, job: Job) -> str | None:
    """Why a response is not scored, as far as its text tells, or None."""
    if response.finish_reason == "length":
        return "cut off at the length limit"
    if response.n_chars < job.min_chars:
        return f"under {job.min_chars} characters"
    if response.n_chars > job.max_chars:
        return f"over {job.max_chars:,} characters"
    return None


class Usable(NamedTuple):
    """A response that gets a reward, with its prompt, as texts and as the policy's token ids."""

    response: Response
    messages: list[Message]
    prompt_ids: list[int]
    response_ids: list[int]


class Scoring:
    """A worker's part of a job: its responses and where their scores go. Sources say what the rewards are.

    `passes` is how often a source looks at a response.
    """

    passes = 1

    def __init__(self, job: Job, counter: Counter) -> None:
        self.job, self.counter = job, counter
        prompts = files.read_rows(Path(job.folder) / "prompts.jsonl", Prompt)
        self.prompts = {prompt.prompt_id: prompt.messages for prompt in prompts}
        self.chat = load_chat(job.engine, job.policy, job.template)

    def rewards(self, shard: Path, rows: list[Usable]) -> Sequence[float | str]:
        """The reward of each response, or why it gets none; `self.counter` is told of each."""
        raise NotImplementedError

    def run(self, shards: list[Path]) -> None:
        """Score shards of responses."""
        for shard in shards:
            kept, dropped = self.usable(shard)
            scores = []
            for row, reward in zip(kept, self.rewards(shard, kept), strict=True):
                if isinstance(reward, str):
                    dropped.append(Dropped(row.response.prompt_id, row.response.sample, reward))
                else:
                    scores.append(self.score(shard, row, reward))
            self.write(shard, scores, dropped)

    def usable(self, shard: Path) -> tuple[list[Usable], list[Dropped]]:
        """The responses of a shard in their order, and the others."""
        kept, dropped = [], []
        for response in files.read_rows(shard, Response):
            reason = unusable(response, self.job)
            if not reason:
                messages = self._messages(response, shard)
                row = Usable(response, messages, *self.chat.encode(messages, response.response))
                if len(row.prompt_ids) + len(row.response_ids) <= self.job.cutoff_len:
                    kept.append(row)
                    continue
                reason = f"over {self.job.cutoff_len:,} tokens with their prompt"
            dropped.append(Dropped(response.prompt_id, response.sample, reason))
        self.counter.add(len(dropped))
        return kept, dropped

    def score(
        self, shard: Path, row: Usable, reward: float, logps: tuple[float, float] | None = None
    ) -> Score:
        """The row to write. Raises BadInput for a reward that is not finite."""
        response = row.response
        if not math.isfinite(reward):
            where = f"{shard}: prompt {response.prompt_id} sample {response.sample}"
            raise BadInput(f"{where}: its reward is {reward}; it must be finite")
        return Score(
            prompt_id=response.prompt_id,
            sample=response.sample,
            ids_hash=response_hash(row.prompt_ids, row.response_ids),
            n_chars=response.n_chars,
            n_tokens=len(row.response_ids),
            logp_policy=logps[0] if logps else None,
            logp_ref=logps[1] if logps else None,
            reward=reward,
        )

    def write(self, shard: Path, scores: list[Score], dropped: list[Dropped]) -> None:
        """Write a shard: its scores come last, since they say that it is done."""
        files.write_shard(self.job.beside(shard, "dropped"), dropped)
        files.write_shard(self.job.beside(shard, "part"), scores)

    def _messages(self, response: Response, shard: Path) -> list[Message]:
        try:
            return self.prompts[response.prompt_id]
        except KeyError:
            raise BadInput(f"{shard}: prompt {response.prompt_id} is not in prompts.jsonl") from None


class Asked(NamedTuple):
    """A question for the judge, the last turn of `messages`; answer i has the seed `seed + i`."""

    key: str
    messages: list[Message]
    seed: int


class Judge(Protocol):
    """Whoever answers."""

    def ask(self, questions: list[Asked], on_answered: Callable[[int, list[str]], None]) -> None:
        """Calls `on_answered` with the index of each question as soon as it is done, and its answers.

        They are fewer than asked for where some, or all, did not come.
        """
        ...
