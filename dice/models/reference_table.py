"""Reference log-probs of training rows, found by the token ids that they belong to.

DPO compares the policy with a reference that never changes while it trains. In a round of DICE that
reference is the policy which the round starts from, and scoring has just computed its log-probs. So
training needs no reference model in memory: it looks them up here, and computes what scoring has not
seen (replayed and validation pairs) before its first step, while policy and reference are one.

A row is known by a hash of its token ids and labels. Where training encodes a response differently
from scoring, nothing is found, and nothing wrong is used.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from dice.errors import BadInput
from dice.run import files
from dice.run.rows import Pair, Score

IGNORED = -100  # the label of a token that is not trained on, as in transformers and LLaMA-Factory
HASH_BYTES = 16
HASH = re.compile(f"[0-9a-f]{{{2 * HASH_BYTES}}}")


def row_hash(input_ids: Sequence[int] | np.ndarray, labels: Sequence[int] | np.ndarray) -> str:
    """32 hex digits for a training row without padding: its token ids and its labels, both (L,)."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for values in (input_ids, labels):
        digest.update(np.asarray(values, dtype="<i4").tobytes())
    return digest.hexdigest()


def response_hash(prompt_ids: Sequence[int], response_ids: Sequence[int]) -> str:
    """`row_hash` of a prompt and a response to it, of which the response is trained on."""
    return row_hash([*prompt_ids, *response_ids], [IGNORED] * len(prompt_ids) + [*response_ids])


class ReferenceTable(dict[str, float]):
    """row_hash -> log-prob of the row's labels under the reference, summed, in nats."""

    def save(self, path: Path) -> None:
        """Write the table as safetensors, atomically: `hashes` (N, 16) uint8, `logps` (N,) float64."""
        hashes = np.frombuffer(bytes.fromhex("".join(self)), np.uint8).reshape(-1, HASH_BYTES)
        logps = np.fromiter(self.values(), np.float64, len(self))
        files.write_text(path, [safetensors.numpy.save({"hashes": hashes, "logps": logps})])

    @classmethod
    def load(cls, path: Path) -> "ReferenceTable":
        """A table that `save` wrote. Raises BadInput for anything else."""
        try:
            with files.open_file(path) as file:
                found = safetensors.numpy.load(file.read())
            hashes, logps = found["hashes"], found["logps"]
        except (safetensors.SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
            raise BadInput(f"{path}: not a table of reference log-probs ({error})") from None
        fits = logps.ndim == 1 and hashes.shape == (len(logps), HASH_BYTES)
        if not fits or (hashes.dtype, logps.dtype) != (np.uint8, np.float64):
            shapes = f"hashes {hashes.dtype} {hashes.shape}, logps {logps.dtype} {logps.shape}"
            raise BadInput(f"{path}: not a table of reference log-probs ({shapes})")
        if not np.isfinite(logps).all():
            raise BadInput(f"{path}: a reference log-prob is no finite number")
        return cls(zip((row.tobytes().hex() for row in hashes), logps.tolist(), strict=True))


def from_scores(pairs: Path, shards: Iterable[Path]) -> ReferenceTable:
    """The table of a round's pairs (`pairs.jsonl`), from what scoring saved (`scores/part-*.jsonl`).

    Raises BadInput for a pair whose responses were not scored, or have no log-prob.
    """
    wanted = set()
    for pair in files.read_rows(pairs, Pair):
        wanted |= {(pair.prompt_id, pair.chosen_sample), (pair.prompt_id, pair.rejected_sample)}
    table = ReferenceTable()
    for shard in shards:
        for number, score in enumerate(files.read_rows(shard, Score), 1):
            if (score.prompt_id, score.sample) in wanted:
                if not HASH.fullmatch(score.ids_hash) or not math.isfinite(score.logp_policy):
                    raise BadInput(f"{shard}:{number}: ids_hash or logp_policy is none; run `score` again")
                wanted.remove((score.prompt_id, score.sample))
                table[score.ids_hash] = score.logp_policy
    if wanted:
        prompt, sample = min(wanted)
        raise BadInput(f"{pairs}: prompt {prompt} sample {sample} has no score; run `score` again")
    return table
