"""The data of a new recipe: preference pairs and prompts, measured in tokens, and copied into its folder.

Whatever format they come in, the copies have that of a round's pairs. The folder has a dataset_info.json of
its own, so that no name in the user's is taken.
"""

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dice.data import dataset_dir
from dice.data.answers import NoColumn, read_asked, read_pairs
from dice.data.dataset_info import ROLE_CONTENT
from dice.errors import BadInput, counted
from dice.models.encoding import Chat
from dice.run import files
from dice.run.rows import Message, Preference, Prompt
from dice.stages.data_checks import naming

LEAST = 16  # pairs, and prompts, of a part
HELD_OUT_SHARE, HELD_OUT = 0.1, (50, 500)  # of the prompts; how many at least, else none, and at most
# The names of sets in the recipe's dataset_info.json.
PAIRS, PROMPTS, HELD_OUT_PAIRS = "pairs", "prompts", "held_out_pairs"
REGISTERED = "data"  # whose dataset_info.json has the sets that are given by name
OTHERWISE = (
    "columns of other names can be told in data/dataset_info.json (docs/quickstart.md, Register your data); "
    "then give the name of that entry"
)


@dataclass(frozen=True)
class Data:
    """Pairs, and prompts where they are not those of the pairs."""

    pairs: list[Preference]
    prompts: list[Prompt] | None
    lengths: np.ndarray  # (pairs, 2): tokens of the prompt and of the longer answer
    told: str  # where they are from, and what was left out
    own: np.ndarray = field(default_factory=lambda: np.zeros(0, int))  # (prompts,) tokens
    held_out: list[Preference] = field(default_factory=list)  # to measure the reward with

    @property
    def rows(self) -> np.ndarray:
        """(pairs,) tokens of prompt and longer answer."""
        return self.lengths.sum(axis=1)

    @property
    def asked(self) -> np.ndarray:
        """Tokens of the prompts that a round asks."""
        return self.own if self.prompts else self.lengths[:, 0]

    @property
    def count(self) -> int:
        """Distinct prompts that a round asks."""
        return len(self.prompts or {pair.prompt_id for pair in self.pairs})

    def up_to(self, tokens: int) -> "Data":
        """The pairs that are not longer. Raises BadInput where none is left."""
        kept, told = self._short("--pairs", self.rows, tokens)
        return self._some(kept, told)

    def asked_up_to(self, tokens: int) -> "Data":
        """Without prompts of its own that are longer. Raises BadInput where none is left."""
        if not self.prompts:
            return self
        kept, told = self._short("--prompts", self.own, tokens)
        return replace(self, prompts=[self.prompts[at] for at in kept], own=self.own[kept], told=told)

    def _short(self, flag: str, lengths: np.ndarray, tokens: int) -> tuple[np.ndarray, str]:
        """Which rows of a flag's data are not longer, and what is told of the others."""
        kept = np.flatnonzero(lengths <= tokens)
        if not len(kept):
            raise BadInput(f"{flag}: all of them have over {tokens:,} tokens, which is too long here")
        left_out = len(lengths) - len(kept)
        told = f"{left_out:,} {flag[2:]} with over {tokens:,} tokens left out"
        return kept, f"{self.told}; {told}" if left_out else self.told

    def with_held_out(self) -> "Data":
        """With the pairs of some prompts that no round asks held out, spread over the data.

        None where these were too few.
        """
        asked = {prompt.prompt_id for prompt in self.prompts or []}
        prompts = list(dict.fromkeys(pair.prompt_id for pair in self.pairs if pair.prompt_id not in asked))
        least, most = HELD_OUT
        count = min(int(len(prompts) * HELD_OUT_SHARE), most)
        if count < least:
            return self
        chosen = {prompts[at] for at in np.linspace(0, len(prompts), count, endpoint=False).astype(int)}
        is_held = np.array([pair.prompt_id in chosen for pair in self.pairs])
        held_out = [self.pairs[at] for at in np.flatnonzero(is_held)]
        return replace(self._some(np.flatnonzero(~is_held), self.told), held_out=held_out)

    def part(self, share: float) -> "Data":
        """A share of the pairs and of the prompts, but not too few for a try-out, spread over the data."""
        every = math.ceil(1 / share)
        kept = np.arange(0, len(self.pairs), max(1, min(every, len(self.pairs) // LEAST)))
        step = max(1, min(every, len(self.own) // LEAST))
        prompts = self.prompts and self.prompts[::step]
        return replace(self._some(kept, self.told), prompts=prompts, own=self.own[::step])

    def _some(self, kept: np.ndarray, told: str) -> "Data":
        return replace(self, pairs=[self.pairs[at] for at in kept], lengths=self.lengths[kept], told=told)

    def write(self, folder: Path) -> None:
        """Write pairs, prompts and their dataset_info.json."""
        entries = {}
        for name, pairs in ((PAIRS, self.pairs), (HELD_OUT_PAIRS, self.held_out)):
            if pairs:
                entries[name] = {"file_name": f"{name}.json", **dataset_dir.ENTRY}
                files.write_array(folder / f"{name}.json", map(dataset_dir.ranking, pairs))
        if self.prompts:
            rows = ({"messages": prompt.messages} for prompt in self.prompts)
            files.write_array(folder / f"{PROMPTS}.json", rows)
            entry = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": ROLE_CONTENT}
            entries[PROMPTS] = {"file_name": f"{PROMPTS}.json", **entry}
        files.write_json(folder / "dataset_info.json", entries)


def read(pairs: str, prompts: str | None, chat: Chat) -> Data:
    """The data that names of data/dataset_info.json or files hold.

    Raises BadInput for what can't be read, with how a set of another format is registered.
    """
    with _of("--pairs"):
        found, dropped = read_pairs(pairs, REGISTERED)
    with _of("--prompts"):
        asked, others = read_asked(prompts, REGISTERED) if prompts else (None, Counter())
    told = f"{counted(len(found), 'pair')} of {pairs}"
    told += f", {counted(len(asked), 'prompt')} of {prompts}" if asked else ""
    reasons = [f"{number:,} {reason}" for reason, number in (dropped + others).items()]
    answers = [_tokens(chat, [getattr(pair, side) for pair in found]) for side in ("chosen", "rejected")]
    lengths = np.column_stack([_of_prompts(chat, found), np.maximum(*answers) + 1])
    return Data(found, asked, lengths, "; ".join([told, *reasons]), _of_prompts(chat, asked or []))


@contextlib.contextmanager
def _of(flag: str) -> Iterator[None]:
    """Puts the flag before what is wrong with its data, and behind missing columns how they are named."""
    try:
        with naming(flag):
            yield
    except NoColumn as error:
        raise BadInput(f"{error}; {OTHERWISE}") from None


def _tokens(chat: Chat, texts: list[str]) -> np.ndarray:
    encoded = chat.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    return np.array([len(ids) for ids in encoded], int)


def _of_prompts(chat: Chat, rows: Sequence[Preference | Prompt]) -> np.ndarray:
    """(N,) tokens of prompts; what a template adds is counted once."""
    beside = len(chat.encode_prompt([Message(role="user", content="Hi")])) - _tokens(chat, ["Hi"])[0]
    return _tokens(chat, ["\n".join(turn["content"] for turn in row.messages) for row in rows]) + beside
