"""The data of a new recipe: preference pairs and prompts, measured in tokens, and copied into its folder.

Whatever format they come in, the copies have that of a round's pairs. The folder has a dataset_info.json of
its own, so that no name in the user's is taken.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dice.data import dataset_dir
from dice.data.answers import read_asked, read_pairs
from dice.data.dataset_info import ROLE_CONTENT
from dice.errors import BadInput, counted
from dice.models.encoding import Chat
from dice.run import files
from dice.run.rows import Message, Preference, Prompt

LEAST = 16  # pairs, and prompts, of a part
PAIRS, PROMPTS = "pairs", "prompts"  # their names in the recipe's dataset_info.json
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

    @property
    def rows(self) -> np.ndarray:
        """(pairs,) tokens of prompt and longer answer."""
        return self.lengths.sum(axis=1)

    @property
    def count(self) -> int:
        """Distinct prompts that a round asks."""
        return len(self.prompts or {pair.prompt_id for pair in self.pairs})

    def up_to(self, tokens: int) -> "Data":
        """The pairs that are not longer. Raises BadInput where none is left."""
        kept = np.flatnonzero(self.rows <= tokens)
        if not len(kept):
            raise BadInput(f"--pairs: all of them have over {tokens:,} tokens, which is too long here")
        left_out = len(self.pairs) - len(kept)
        told = f"{self.told}; {left_out:,} of over {tokens:,} tokens left out" if left_out else self.told
        return self._some(kept, told)

    def part(self, share: float) -> "Data":
        """A share of the pairs and of the prompts, but not too few for a try-out, spread over the data."""
        every = math.ceil(1 / share)
        kept = np.arange(0, len(self.pairs), max(1, min(every, len(self.pairs) // LEAST)))
        prompts = self.prompts and self.prompts[:: max(1, min(every, len(self.prompts) // LEAST))]
        return replace(self._some(kept, self.told), prompts=prompts)

    def _some(self, kept: np.ndarray, told: str) -> "Data":
        return Data([self.pairs[at] for at in kept], self.prompts, self.lengths[kept], told)

    def write(self, folder: Path) -> None:
        """Write pairs, prompts and their dataset_info.json."""
        entries = {PAIRS: {"file_name": f"{PAIRS}.json", **dataset_dir.ENTRY}}
        files.write_array(folder / f"{PAIRS}.json", map(dataset_dir.ranking, self.pairs))
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
    try:
        found, dropped = read_pairs(pairs, REGISTERED)
        asked, others = read_asked(prompts, REGISTERED) if prompts else (None, Counter())
    except BadInput as error:
        raise BadInput(f"{error}; {OTHERWISE}") from None
    told = f"{counted(len(found), 'pair')} of {pairs}"
    told += f", {counted(len(asked), 'prompt')} of {prompts}" if asked else ""
    reasons = [f"{number:,} {reason}" for reason, number in (dropped + others).items()]
    return Data(found, asked, _lengths(chat, found), "; ".join([told, *reasons]))


def _lengths(chat: Chat, pairs: Sequence[Preference]) -> np.ndarray:
    """(pairs, 2): tokens of the prompt and of the longer answer; what a template adds is counted once."""

    def tokens(texts: list[str]) -> np.ndarray:
        return np.array([len(ids) for ids in chat.tokenizer(texts, add_special_tokens=False)["input_ids"]])

    said = Message(role="user", content="Hi")
    beside = len(chat.encode_prompt([said])) - tokens(["Hi"])[0]
    prompts = tokens(["\n".join(turn["content"] for turn in pair.messages) for pair in pairs])
    answers = [tokens([getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")]
    return np.column_stack([prompts + beside, np.maximum(*answers) + 1])
