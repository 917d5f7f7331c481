"""A round, read from its files: its prompts, its scores as arrays, and the texts that are asked for.

Of a response some bytes are held in memory, its text only where it is asked for.
"""

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from dice.errors import BadInput
from dice.pairing.table import Sampled, Table
from dice.run import files
from dice.run.rows import Prompt, Score, UnreadResponse

LONGEST = np.iinfo(np.int32).max


class Answer(NamedTuple):
    """A response's text, and its token ids where the text would become others."""

    text: str
    response_ids: list[int] | None


Answers = dict[tuple[int, int], Answer]  # by (row, sample)


def read_prompts(path: Path) -> Iterator[Prompt]:
    """The prompts of a round. Raises BadInput for one that is there twice."""
    seen = set()
    for number, prompt in enumerate(files.read_rows(path, Prompt), 1):
        if prompt.prompt_id in seen:
            raise BadInput(f"{path}:{number}: prompt {prompt.prompt_id} is there twice")
        seen.add(prompt.prompt_id)
        yield prompt


def read_scores(folder: Path, prompt_ids: list[str], samples: int) -> Table:
    """All scores of a round. Raises BadInput for one that is not finite, given twice, or of no prompt."""
    table = Table.empty(prompt_ids, samples)
    scored = bytearray(table.present.size)
    for path in files.shards(folder):
        places, rewards, n_chars, n_tokens, known = [], [], [], [], []
        for number, score in enumerate(files.read_rows(path, Score), 1):
            row = table.row_of.get(score.prompt_id)
            if row is None or not 0 <= score.sample < samples:
                raise BadInput(f"{path}:{number}: scores a response that was not sampled")
            place = row * samples + score.sample
            if scored[place]:
                raise BadInput(f"{path}:{number}: sample {score.sample} of its prompt is scored twice")
            if not math.isfinite(score.reward):
                raise BadInput(f"{path}:{number}: reward is {score.reward}; it must be a finite number")
            if not (0 <= score.n_chars <= LONGEST and 0 <= score.n_tokens <= LONGEST):
                raise BadInput(
                    f"{path}:{number}: {score.n_chars} chars and {score.n_tokens} tokens are no lengths"
                )
            scored[place] = 1
            places.append(place)
            rewards.append(score.reward)
            n_chars.append(score.n_chars)
            n_tokens.append(score.n_tokens)
            known.append((score.logp_policy, score.logp_ref, score.reward_before))
        table.rewards.flat[places] = rewards
        table.n_chars.flat[places] = n_chars
        table.n_tokens.flat[places] = n_tokens
        columns = np.array(known, float).reshape(-1, 3).T  # None becomes NaN
        for into, column in zip(
            (table.logp_policy, table.logp_ref, table.reward_before), columns, strict=True
        ):
            into.flat[places] = column
    table.present = np.frombuffer(scored, bool).reshape(table.present.shape)
    return table


def read_answers(folder: Path, table: Table, wanted: np.ndarray) -> tuple[Answers, Sampled]:
    """The wanted ones of the samples, (P, K), and what all responses tell.

    Raises BadInput for a response that is there twice or to no prompt, and for a score whose response is
    not there.
    """
    samples = table.present.shape[1]
    asked, seen = wanted.tobytes(), bytearray(wanted.size)
    checksums = np.zeros(wanted.size, np.uint32)
    answers: Answers = {}
    cut_off = 0
    for path in files.shards(folder):
        places, sums = [], []
        for number, response in enumerate(files.read_rows(path, UnreadResponse), 1):
            row = table.row_of.get(response.prompt_id)
            if row is None or not 0 <= response.sample < samples:
                raise BadInput(f"{path}:{number}: a response to no prompt of the round, or of no sample")
            place = row * samples + response.sample
            if seen[place]:
                raise BadInput(f"{path}:{number}: sample {response.sample} of its prompt is there twice")
            text = _checked(response.response, f"{path}:{number}")
            seen[place] = 1
            places.append(place)
            sums.append(zlib.crc32(response.response))
            cut_off += response.finish_reason == "length"
            if asked[place]:
                ids = _checked_ids(response.response_ids, f"{path}:{number}")
                answers[row, response.sample] = Answer(json.loads(text), ids)
        checksums[places] = sums
    there = np.frombuffer(seen, bool).reshape(wanted.shape)
    for row, sample in np.argwhere(table.present & ~there)[:1]:
        prompt = table.prompt_ids[row]
        raise BadInput(f"{folder}: sample {sample} of prompt {prompt} is scored but has no response")
    return answers, Sampled(int(there.sum()), cut_off, _duplicates(checksums.reshape(wanted.shape), there))


def _checked_ids(raw: msgspec.Raw, where: str) -> list[int] | None:
    """Token ids, or None where there are none. Raises BadInput for anything else."""
    try:
        return msgspec.json.decode(raw, type=list[int] | None) if raw else None
    except msgspec.MsgspecError as error:
        raise BadInput(f"{where}: column 'response_ids' is no list of token ids ({error})") from None


def _checked(raw: msgspec.Raw, where: str) -> str:
    """A text as JSON. Raises BadInput where it is none, or not UTF-8."""
    try:
        text = str(raw, "utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"{where}: not UTF-8 ({error.reason} at byte {error.start} of the response)") from None
    if not text.startswith('"'):
        raise BadInput(f"{where}: column 'response' is {text:.40}, not text")
    return text


def _duplicates(checksums: np.ndarray, there: np.ndarray) -> int:
    """Responses whose checksum another one to the same prompt has already, of (P, K)."""
    ordered = np.sort(np.where(there, checksums.astype(np.int64), -1), axis=1)
    return int(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).sum())
