"""An engine without a model: bytes for tokens, words for answers, hashes for log-probs.

It lets a test run the whole loop in seconds, with the real files, filters and joins. Everything is
a deterministic function of seeds and texts. A fake model is a folder with a `config.json`.
"""

import hashlib
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dice.inference.sampler import Request, Sampled
from dice.launch import processes
from dice.models.trainer import Trained
from dice.recipe.groups import Generate
from dice.run import files
from dice.run.digests import file_digest
from dice.run.rows import Message

STOP = 0
WORDS = ("dog", "cat", "horse", "cow", "red", "blue", "green", "apple", "pear", "hammer", "saw")


class Chat:
    """UTF-8 bytes as token ids; a zero byte ends a turn."""

    name, stop_ids = "fake", (STOP,)

    def encode(
        self, messages: list[Message], response: str, sampled_ids: list[int] | None = None
    ) -> tuple[list[int], list[int]]:
        prompt = "\n".join(f"{message['role']}: {message['content']}" for message in messages)
        return list(prompt.encode()), sampled_ids or [*response.encode(), STOP]

    def encode_prompt(self, messages: list[Message]) -> list[int]:
        return self.encode(messages, "")[0]

    def decode(self, response_ids: list[int]) -> str:
        return bytes(i for i in response_ids if i != STOP).decode(errors="replace")

    def pieces(self, ids: list[int]) -> list[str]:
        return [chr(i) for i in ids]


def load_chat(model: str, **encoding: Any) -> Chat:
    return Chat()


def identity(model: str) -> str:
    """What makes a fake model answer differently from another: never where on the disk it lies."""
    path = Path(model)
    return (path / "config.json").read_text() if path.is_dir() else "/".join(path.parts[-2:])


class Sampler:
    """Answers of one to nine words, or grades where one is asked for, cut at `max_new_tokens` bytes."""

    max_model_len = 1 << 20
    vocabulary = 256
    takes_stream = True

    def __init__(self, model: str, stop_ids: list[int], options: Generate, dtype: str) -> None:
        self.options, self.identity = options, identity(model)

    def sample(self, requests: Iterable[Request]) -> Iterator[Sampled]:
        limit = self.options.max_new_tokens
        for request in requests:
            for sample in range(self.options.samples):
                rng = random.Random(f"{self.identity} {request.seed + sample}")
                words = " ".join(rng.choices(WORDS, k=rng.randint(1, 9)))
                if bytes(request.prompt_ids).endswith(b"Grade: N"):  # the end of a judge's prompt
                    words = f"Grade: {rng.randint(0, 6)}"  # 6 is none
                ids = [*words.encode(), STOP]
                reason = "stop" if len(ids) <= limit else "length"
                found = logps(self.identity, request.prompt_ids, ids[:limit])
                yield Sampled(request.prompt_id, sample, ids[:limit], reason, found.tolist())


class Scorer:
    """Log-probs from hashes: about one nat per byte, a little different for every model."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.name = ""

    def use(self, model: str) -> None:
        self.name = model

    def token_logps(
        self, rows: list, on_done: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        on_done(len(rows))
        return [logps(identity(self.name), prompt, response) for prompt, response in rows]


def logps(identity: str, prompt: list[int], response: list[int]) -> np.ndarray:
    """Log-probs of a response's tokens, (L,)."""
    text = f"{identity} {prompt} {response}".encode()
    noise = int.from_bytes(hashlib.sha256(text).digest()[:4], "big") / 2**32
    return np.full(len(response), -(1 + 0.1 * noise))


Options = dict


class RewardModel:
    """Rewards from hashes, between 0 and 1."""

    longest = float("inf")

    def __init__(self, name: str, encoding: dict[str, Any], options: dict[str, Any]) -> None:
        self.name = name

    def encode(self, messages: list[Message], response: str) -> list[int]:
        return sum(Chat().encode(messages, response), [])

    def rewards(
        self, rows: list[list[int]], on_done: Callable[[int], None] = lambda count: None
    ) -> list[float]:
        on_done(len(rows))
        return [random.Random(f"{identity(self.name)} {row}").random() for row in rows]


def starting_from(model: str) -> dict[str, Any]:
    """As `dice.models.trainer.starting_from`; there are no adapters."""
    return {"model_name_or_path": model}


def train(config: dict[str, Any], log: Path, label: str) -> Trained:
    """As `dice.models.trainer.train`, in no time."""
    data, output = Path(config["dataset_dir"]) / "mixed.json", Path(config["output_dir"])
    files.remove(output)
    if config["stage"] == "rm":
        files.write_json(output / "config.json", {"digest": file_digest(data)})
    else:
        command = [sys.executable, "-m", "dice.inference.fake", str(data)]
        command += [config["model_name_or_path"], str(output)]
        processes.run_logged(command, log, label)
    return Trained(len(json.loads(data.read_text(encoding="utf-8"))), 0, [])


def finished(work: Path) -> None:
    """As `dice.models.trainer.finished`: what takes no time is always done again."""


def make_policy(dataset: str, policy: str, output: str) -> None:
    """A fake model whose identity depends on the data and on the policy it comes from."""
    digest = hashlib.sha256(Path(dataset).read_bytes() + policy.rsplit("/", 2)[-1].encode()).hexdigest()
    Path(output).mkdir(parents=True, exist_ok=True)
    (Path(output) / "config.json").write_text(json.dumps({"digest": digest}) + "\n")


if __name__ == "__main__":
    make_policy(*sys.argv[1:])
