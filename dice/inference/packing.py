"""How rows that share a prompt are laid out, so that a prompt is computed once for all its responses.

A row is a prompt and one response to it, as token ids. A *pack* is the one sequence of a forward pass,
without padding: a prompt, its responses one after the other, the next prompt, its responses:

    ids         p p p  a a  b b b  q q  c
    positions   0 1 2  3 4  3 4 5  0 1  2

The log-probs must be those that each row has in a sequence of its own. Therefore the positions of every
response start behind its prompt, not behind the response before it, and a token of a response attends to
its prompt and to the tokens before it in its own response, and to no others
(`dice.inference.packed_attention` applies that mask).

A pack ends where the token budget does. Responses that are left over go into the next pack, and their
prompt is *carried*: its keys and values are kept and its tokens are not fed again.

This module is pure: lists of token ids in, ranges and indices out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Rows = Sequence[tuple[list[int], list[int]]]  # (prompt ids, response ids)
Range = tuple[int, int]  # [start, end)
Cursor = tuple[int, int]  # the next group, and the next item of it: 0 its prompt, i its i-th response


@dataclass(frozen=True)
class Group:
    """A prompt and all responses to it, each as (row, token ids)."""

    prompt: list[int]
    responses: list[tuple[int, list[int]]] = field(default_factory=list)


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of a pack, and the keys that they may see (each only those up to itself).

    `queries` counts from the pack's first token. `keys` counts from the first key: the keys of the
    carried prompt come first, then the pack's own. A prompt has one range of keys, its own; a response
    has two, its prompt's and its own.
    """

    queries: Range
    keys: tuple[Range, ...]


@dataclass
class Pack:
    """One forward pass over T tokens: `ids` and `positions` have T entries.

    The last token of a response is predicted but never fed, so a response of n tokens takes n - 1 of T.

    `carried` is the number of tokens of the prompt that the pack before hands over, 0 where there is
    none. `carry` is the range of keys, and `carry_state` the state, that this pack hands over.
    `segments` has one entry for each prompt and each response.

    States are last hidden states: that of the carried prompt's last token, where there is one, then
    those of the T tokens. State `predictors[i]` predicts token `targets[i]`. `rows` holds (row, number
    of its targets) in the order of the targets.
    """

    carried: int = 0
    carry: Range | None = None
    carry_state: int = 0
    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    predictors: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    rows: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._prompt: Range = (0, self.carried)  # keys of the prompt that responses are added to
        self._prompt_state = 0  # the state of its last token

    def add_prompt(self, prompt: list[int]) -> None:
        """Add a prompt; the responses added next are responses to it."""
        tokens = self._feed(prompt, 0)
        self._prompt, self._prompt_state = self._keys(tokens), self._state(tokens[1] - 1)
        self.segments.append(Segment(tokens, (self._prompt,)))

    def add_response(self, row: int, response: list[int]) -> None:
        """Add a response to the prompt added last, or to the carried one."""
        tokens = self._feed(response[:-1], self._prompt[1] - self._prompt[0])
        if tokens[0] < tokens[1]:
            self.segments.append(Segment(tokens, (self._prompt, self._keys(tokens))))
        self.predictors += [self._prompt_state, *map(self._state, range(*tokens))][: len(response)]
        self.targets += response
        self.rows.append((row, len(response)))

    def carry_prompt(self) -> None:
        """Hand the prompt added last over to the next pack, which has more responses to it."""
        self.carry, self.carry_state = self._prompt, self._prompt_state

    def _feed(self, ids: list[int], position: int) -> Range:
        start = len(self.ids)
        self.ids += ids
        self.positions += range(position, position + len(ids))
        return start, len(self.ids)

    def _keys(self, tokens: Range) -> Range:
        return self.carried + tokens[0], self.carried + tokens[1]

    def _state(self, token: int) -> int:
        return token + (1 if self.carried else 0)


def group_by_prompt(rows: Rows) -> list[Group]:
    """Groups of rows with the same prompt, in the order in which prompts first appear."""
    groups: dict[tuple[int, ...], Group] = {}
    for row, (prompt, response) in enumerate(rows):
        groups.setdefault(tuple(prompt), Group(prompt)).responses.append((row, response))
    return list(groups.values())


def fill(groups: Sequence[Group], at: Cursor, budget: int) -> tuple[Pack, Cursor]:
    """The pack that begins at a cursor, and the cursor behind it.

    It holds at most `budget` tokens, or a single prompt or response that is longer. The tokens of a
    carried prompt do not count: only its keys and values are there.
    """
    group, item = at
    pack = Pack(carried=len(groups[group].prompt) if item else 0)
    while group < len(groups):
        prompt, responses = groups[group].prompt, groups[group].responses
        size = len(responses[item - 1][1]) - 1 if item else len(prompt)
        if size and pack.ids and len(pack.ids) + size > budget:  # so no pack is without tokens
            break
        if item:
            pack.add_response(*responses[item - 1])
        else:
            pack.add_prompt(prompt)
        group, item = (group, item + 1) if item < len(responses) else (group + 1, 0)
    if item:
        pack.carry_prompt()
    return pack, (group, item)


def blocks(pack: Pack, size: int, joins: bool = True) -> Iterator[Segment]:
    """The pack's segments for an attention kernel: joined or cut to at most `size` queries each.

    Short responses to one prompt share a block if it `joins`; its mask keeps them apart. Prompts and long
    responses are cut, so that the keys which lie ahead of a block are not even computed.
    """
    joined = pack.segments[:1]
    for segment in pack.segments[1:]:
        *prompt, own = segment.keys
        before, queries = joined[-1], (joined[-1].queries[0], segment.queries[1])
        if joins and prompt and before.keys[:-1] == (*prompt,) and queries[1] - queries[0] <= size:
            segment = Segment(queries, (*prompt, (before.keys[-1][0], own[1])))
            joined.pop()
        joined.append(segment)
    for segment in joined:
        *prompt, (first_key, _) = segment.keys
        for start in range(*segment.queries, size):
            end = min(start + size, segment.queries[1])
            yield Segment((start, end), (*prompt, (first_key, pack.carried + end)))
