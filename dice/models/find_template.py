"""`template: auto`: which template of LLaMA-Factory's reads text as a model's own chat template does.

Compared are token ids, for every kind of conversation that the own template takes: with and without a system
prompt, of one and of several turns, and the end of a response.
"""

import copy
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from dice.errors import BadInput
from dice.models.encoding import Chat
from dice.models.own_template import Unrendered, rendered
from dice.run.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

USER, ANSWER, SYSTEM = (
    Message(role=role, content=text)
    for role, text in (("user", "Hi there"), ("assistant", "Hello!"), ("system", "Be kind."))
)
PROMPTS = {
    "one turn": [USER],
    "a system prompt": [SYSTEM, USER],
    "several turns": [USER, ANSWER, USER],
    "a system prompt and several turns": [SYSTEM, USER, ANSWER, USER],
}
WHOLE = "a whole conversation"
WITH_SYSTEM = {kind for kind, messages in PROMPTS.items() if SYSTEM in messages}
SHOWN = 30  # characters of a difference


class OtherSystemPrompt(BadInput):
    """No template reads as the model's own does, but `template` does so wherever there is a system prompt.

    Where there is none, it has another default one, or none.
    """

    def __init__(self, message: str, template: str) -> None:
        super().__init__(message)
        self.template = template


def find_template(
    tokenizer: "PreTrainedTokenizerBase", templates: dict[str, Any], enable_thinking: bool = True
) -> str:
    """The name of the first of `templates` whose token ids are those of the tokenizer's own chat template.

    Those for text alone come first. Raises BadInput where there is none, with the two nearest and
    their first difference, and where the tokenizer has no chat template, or one that can't be rendered;
    OtherSystemPrompt where the nearest differs in its default system prompt alone.
    """
    if not tokenizer.chat_template:
        raise BadInput(
            "the model has no chat template to compare with; name the template it was trained with"
        )
    theirs = dict(_own(tokenizer, enable_thinking))
    if PROMPTS.keys().isdisjoint(theirs):
        raise BadInput("the model's chat template can't be rendered; name the template it was trained with")
    near = []
    for name, template in sorted(templates.items(), key=lambda item: not _is_for_text(item[1])):
        if not (chat := _chat(tokenizer, template, enable_thinking)):
            continue
        pairs = {kind: (_ours(chat, kind), ids) for kind, ids in theirs.items()}
        differences = {kind: _same(*pair) for kind, pair in pairs.items() if not _fits(kind, *pair)}
        if not differences:
            return name
        near.append((len(differences), -sum(differences.values()), name, chat, differences))
    told, nearest = [], sorted(near, key=lambda entry: entry[:3])[:2]
    for *_, name, chat, differences in nearest:
        kind, at = next(iter(differences.items()))
        ours, own = (
            tokenizer.decode(ids[max(0, at - 1) :])[:SHOWN] for ids in (_ours(chat, kind), theirs[kind])
        )
        told.append(f"{name} ({kind}: {ours!r} instead of {own!r})")
    refusal = f"no template of LLaMA-Factory's reads as the model's own does; nearest are {', '.join(told)}"
    with_system = WITH_SYSTEM & theirs.keys()
    if nearest and with_system and with_system.isdisjoint(nearest[0][-1]):
        raise OtherSystemPrompt(refusal, nearest[0][2])
    raise BadInput(refusal)


def _own(tokenizer: "PreTrainedTokenizerBase", thinks: bool) -> Iterator[tuple[str, list[int]]]:
    """Token ids by the tokenizer's own chat template of each kind of conversation that it takes."""
    kinds = {kind: (messages, True) for kind, messages in PROMPTS.items()}
    kinds[WHOLE] = ([USER, ANSWER], False)
    for kind, (messages, asking) in kinds.items():
        try:
            text = rendered(tokenizer, messages, asking=asking, thinks=thinks)
        except Unrendered:
            continue
        yield kind, tokenizer.encode(text, add_special_tokens=False)


def _chat(tokenizer: "PreTrainedTokenizerBase", template: Any, enable_thinking: bool) -> Chat | None:
    """The tokenizer with a template, unless it lacks one of its stop words."""
    if not {*template.stop_words} <= tokenizer.get_vocab().keys():
        return None
    found = copy.copy(template)
    found.enable_thinking = enable_thinking
    return Chat(tokenizer, found)


def _is_for_text(template: Any) -> bool:
    """Whether a template is for text alone; others may read text alike."""
    return type(template.mm_plugin).__name__ == "BasePlugin"


def _ours(chat: Chat, kind: str) -> list[int]:
    if kind == WHOLE:
        return [token for ids in chat.encode([USER], ANSWER["content"]) for token in ids]
    return chat.encode_prompt(PROMPTS[kind])


def _same(ours: list[int], theirs: list[int]) -> int:
    """How many token ids two rows have in common from their beginning on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=False)))


def _fits(kind: str, ours: list[int], theirs: list[int]) -> bool:
    """Whether ours are theirs; behind a whole conversation may stand what begins the next prompt."""
    return ours == (theirs[: len(ours)] if kind == WHOLE else theirs)
