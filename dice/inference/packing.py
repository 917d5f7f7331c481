"""How rows that share a prompt are laid out, so that the prompt is computed once for all of them.

A pack is one long sequence without padding: a prompt, its responses one after the other, the next
prompt, its responses. Positions start again behind the prompt for every response, and a response
sees its prompt and itself (`dice.inference.packed_attention` takes care of that). A pack ends where
the token budget does; responses that are left over go into the next pack, which reuses the prompt's
keys and values.

Pure: lists of token ids in, ranges and indices out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Rows = Sequence[tuple[list[int], list[int]]]  # (prompt ids, response ids)
Range = tuple[int, int]  # [start, end)


@dataclass(frozen=True)
class Group:
    """The rows of one prompt: `rows` are their indices, `responses` their token ids."""

    prompt: list[int]
    rows: list[int] = field(default_factory=list)
    responses: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Span:
    """A prompt or a response within a pack.

    `tokens` counts from the pack's first token. `prompt` is where the keys of a response's prompt
    are, counted from the first key: keys are those of the carried prompt, then the pack's own. It is
    None for a prompt.
    """

    tokens: Range
    prompt: Range | None = None


@dataclass(frozen=True)
class Block:
    """Some queries and the keys that they may see: `keys` as in `Span`, without what none sees."""

    queries: Range
    keys: tuple[Range, ...]


@dataclass
class Pack:
    """One forward pass. A response's last token is predicted but never fed.

    `carried` is the number of tokens of the prompt whose keys come from the pack before; `carry` are
    the keys and `carry_state` the state that the pack after needs. States are the last hidden states
    of the carried prompt's last token (where there is one) and of the pack's tokens: state
    `predictors[i]` predicts `targets[i]`. `rows` are (row, number of targets) in the targets' order.
    """

    carried: int = 0
    carry: Range | None = None
    carry_state: int = 0
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)
    _prompt: Range = (0, 0)  # keys of the prompt that responses are added to

    def __post_init__(self) -> None:
        self._prompt = (0, self.carried)

    def add_prompt(self, prompt: list[int]) -> None:
        self._prompt = (self.carried + len(self.ids), self.carried + len(self.ids) + len(prompt))
        self.spans.append(Span(self._feed(prompt, 0)))

    def add_response(self, row: int, response: list[int]) -> None:
        """Add a response to the prompt added last, or to the carried one."""
        start, end = self._prompt
        tokens = self._feed(response[:-1], end - start)
        if tokens[0] < tokens[1]:
            self.spans.append(Span(tokens, self._prompt))
        self.predictors += [self._last_of_prompt(), *map(self._state, range(*tokens))][: len(response)]
        self.targets += response
        self.rows.append((row, len(response)))

    def carry_prompt(self) -> None:
        """More responses to the prompt added last are to come, in the next pack."""
        self.carry, self.carry_state = self._prompt, self._last_of_prompt()

    def _last_of_prompt(self) -> int:
        end = self._prompt[1]
        return 0 if end == self.carried else self._state(end - self.carried - 1)

    def _feed(self, ids: list[int], position: int) -> Range:
        start = len(self.ids)
        self.ids += ids
        self.positions += range(position, position + len(ids))
        return start, len(self.ids)

    def _state(self, token: int) -> int:
        return token + (1 if self.carried else 0)


Cursor = tuple[int, int]  # the next group, and of it the next item: 0 its prompt, i its i-th response


def group_by_prompt(rows: Rows, indices: Sequence[int]) -> list[Group]:
    """Groups of rows with the same prompt, in the order in which prompts first appear."""
    groups: dict[tuple[int, ...], Group] = {}
    for index in indices:
        prompt, response = rows[index]
        group = groups.setdefault(tuple(prompt), Group(prompt))
        group.rows.append(index)
        group.responses.append(response)
    return list(groups.values())


def fill(groups: Sequence[Group], at: Cursor, budget: int) -> tuple[Pack, Cursor]:
    """The pack that begins at a cursor, and the cursor behind it.

    It holds at most `budget` tokens, or a single prompt or response that is longer. The carried
    prompt does not count: only its keys and values are there.
    """
    group, item = at
    pack = Pack(carried=len(groups[group].prompt) if item else 0)
    while group < len(groups):
        current = groups[group]
        size = len(current.responses[item - 1]) - 1 if item else len(current.prompt)
        if size and pack.ids and len(pack.ids) + size > budget:  # so no pack is without tokens
            break
        if item:
            pack.add_response(current.rows[item - 1], current.responses[item - 1])
        else:
            pack.add_prompt(current.prompt)
        group, item = (group, item + 1) if item < len(current.responses) else (group + 1, 0)
    if item:
        pack.carry_prompt()
    return pack, (group, item)


def blocks(pack: Pack, size: int) -> Iterator[Block]:
    """The attention of a pack in blocks of at most `size` queries.

    Short responses to one prompt share a block; prompts and long responses are cut into several, so
    that what lies ahead of a block is not even computed.
    """
    start, own, prompt = 0, 0, None  # the block that is being made: its first query, its first own key
    end = 0
    for span in pack.spans:
        together = span.prompt and span.prompt == prompt and span.tokens[1] - start <= size
        if not together:
            yield from _cut(pack, (start, end), own, prompt, size)
            start, own, prompt = span.tokens[0], span.tokens[0], span.prompt
        end = span.tokens[1]
    yield from _cut(pack, (start, end), own, prompt, size)


def _cut(pack: Pack, queries: Range, own: int, prompt: Range | None, size: int) -> Iterator[Block]:
    for start in range(*queries, size):
        end = min(start + size, queries[1])
        own_keys = (pack.carried + own, pack.carried + end)
        yield Block((start, end), (prompt, own_keys) if prompt else (own_keys,))
