"""Text -> token ids: a conversation in a LLaMA-Factory template, encoded as one string.

A template renders a conversation, which is tokenized as one text and split where the response begins, as it
is with a model's own chat template.
LLaMA-Factory tokenizes every turn by itself (`template_ids: pieces`). The two differ where a tokenizer joins
the prompt's end with the response's beginning, and with SentencePiece, which puts a space before every text
that is tokenized by itself.

A response ends with the token that ends a turn. What a template writes behind that token (ChatML a newline)
belongs to the next prompt, since an engine stops before it.
"""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

from dice.models.llamafactory import llamafactory
from dice.run.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = "\ue000{}\ue001"  # stands for the n-th content while a template writes around it
MARKED = re.compile("\ue000(\\d+)\ue001")
TemplateIds = Literal["whole", "pieces"]


@dataclass(frozen=True)
class Chat:
    """A model's tokenizer and a template: everything between text and token ids."""

    tokenizer: "PreTrainedTokenizerBase"
    template: Any  # llamafactory.data.template.Template
    template_ids: TemplateIds = "whole"
    special_tokens_in_text: bool = False  # whether a special token's name in a text becomes the token
    name: str = ""  # of the template

    def encode(
        self, messages: Sequence[Message], response: str, sampled_ids: list[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids of a prompt (`messages`, ending with the user's turn) and of a response to it.

        The response's are those that it was sampled as, where they are given. They end with the end-of-turn
        token.
        """
        if sampled_ids is not None:
            return self.encode_prompt(messages), sampled_ids
        turns = [*messages, Message(role="assistant", content=response)]
        if self.template_ids == "pieces":
            prompt_ids, response_ids = self._piecewise(turns)
            return prompt_ids, self._ended(response_ids)
        (*asked, said), hidden = self._rendered(turns)
        prompt = "".join(asked) + self._empty_thought(response)
        prompt_ids, ids = self._ids(prompt, hidden), self._ids(prompt + said, hidden)
        # A token may reach from the prompt into the response; an engine begins behind the prompt's tokens.
        begins = ids[: len(prompt_ids)] == prompt_ids
        return prompt_ids, self._ended(ids[len(prompt_ids) :] if begins else self._ids(said, hidden))

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the prompt alone, up to the point where the response begins."""
        turns = [*messages, Message(role="assistant", content="")]
        if self.template_ids == "pieces":
            return self._piecewise(turns)[0]
        (*asked, _), hidden = self._rendered(turns)
        thought = "" if self.template.enable_thinking else self._empty_thought("")
        return self._ids("".join(asked) + thought, hidden)

    def decode(self, response_ids: list[int]) -> str:
        """Text of sampled token ids, special tokens left out."""
        return self.tokenizer.decode(
            response_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def pieces(self, ids: list[int]) -> list[str]:
        """The text of each token, special tokens included; joined they are the text of all.

        A character of several tokens belongs to the last of them.
        """

        def text(start: int, end: int) -> str:
            return self.tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)

        pieces, before, start = [], 0, 0  # tokens decode differently at the start of a text
        for end in range(1, len(ids) + 1):
            longer = text(before, end)
            if longer.endswith("\N{REPLACEMENT CHARACTER}") and end < len(ids):
                pieces.append("")
                continue
            pieces.append(longer.removeprefix(text(before, start)))
            before, start = start, end
        return pieces

    @cached_property
    def stop_ids(self) -> list[int]:
        """Token ids that end a response, by template and tokenizer; sorted."""
        return sorted(self.template.get_stop_token_ids(self.tokenizer))

    def names_special_token(self, text: str) -> bool:
        """Whether the name of a special token stands in a text."""
        return bool(self._special.search(text))

    def _piecewise(self, turns: list[Message]) -> tuple[list[int], list[int]]:
        """As LLaMA-Factory encodes them."""
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
        return self.template.encode_oneturn(self.tokenizer, turns, system)

    def _rendered(self, messages: Sequence[Message]) -> tuple[list[str], list[str]]:
        """The text of each turn, the system prompt being part of the first.

        Where a content names a special token, marks stand for the contents, which are returned beside them.
        """
        texts, hidden = self._texts(messages), []
        if not self.special_tokens_in_text and any(map(self.names_special_token, texts)):
            hidden, texts = texts, [MARK.format(n) if text else "" for n, text in enumerate(texts)]
        turns = [Message(role=m["role"], content=text) for m, text in zip(messages, texts, strict=True)]
        system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
        recorder = copy.copy(self.template)
        recorder._convert_elements_to_ids = lambda _, elements: self._joined(elements)
        return recorder._encode(self.tokenizer, turns, system, None), hidden

    def _joined(self, elements: list[Any]) -> str:
        """LLaMA-Factory's elements, which are texts and names of tokens, as one text."""
        named = {"bos_token": self.tokenizer.bos_token, "eos_token": self.tokenizer.eos_token}
        texts = []
        for element in elements:
            if isinstance(element, dict):
                element = element["token"]
            elif isinstance(element, set):
                element = named[next(iter(element))] or ""
            texts.append(element)
        return "".join(texts)

    def _texts(self, messages: Sequence[Message]) -> list[str]:
        """The contents, without the thoughts that a template for reasoning leaves out."""
        texts, template = [message["content"] for message in messages], self.template
        if self._reasons:
            said = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
            for n in [] if template.preserve_thinking else said[:-1]:
                texts[n] = template.remove_thought(texts[n])
            if template.enable_thinking is False:
                texts[-1] = template.remove_thought(texts[-1])
        return texts

    def _empty_thought(self, response: str) -> str:
        """A thought of nothing, which stands before a response without one where a template has thoughts."""
        if not self._reasons:
            return ""
        thinks = any(word.strip() in response for word in self.template.thought_words)
        return "" if thinks and self.template.enable_thinking else self.template.add_thought()

    @cached_property
    def _reasons(self) -> bool:
        return isinstance(self.template, llamafactory("data.template").ReasoningTemplate)

    def _ids(self, text: str, hidden: list[str]) -> list[int]:
        """Token ids of what a template rendered; marks in it stand for `hidden` contents."""
        return self._guarded(text, hidden) if hidden else [*self._encoded(text)]

    def _guarded(self, text: str, hidden: list[str]) -> list[int]:
        """Token ids of a text in which special tokens are the template's alone."""
        ids = []
        for part in re.split(f"({self._special.pattern})", text):
            if self._special.fullmatch(part):
                ids.append(self.tokenizer.convert_tokens_to_ids(part.strip()))
            elif part:
                plain = MARKED.sub(lambda mark: hidden[int(mark[1])], part)
                ids += self.tokenizer.encode(plain, add_special_tokens=False, split_special_tokens=True)
        return ids

    @cached_property
    def _encoded(self) -> Callable[[str], tuple[int, ...]]:
        """Token ids of a text; a prompt is asked for once with each of its responses."""
        return lru_cache(64)(lambda text: tuple(self.tokenizer.encode(text, add_special_tokens=False)))

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Names of special tokens, with the whitespace around that belongs to some of them (Phi 3)."""
        added = {str(token): token for token in self.tokenizer.added_tokens_decoder.values()}
        names = {
            *self.tokenizer.all_special_tokens,
            *(name for name, token in added.items() if token.special),
        }
        patterns = []
        for name in sorted(names, key=len, reverse=True):
            left, right = (
                r"\s*" if getattr(added.get(name), side, False) else "" for side in ("lstrip", "rstrip")
            )
            patterns.append(f"{left}{re.escape(name)}{right}")
        return re.compile("|".join(patterns) or r"(?!)")

    @cached_property
    def _ending(self) -> list[int]:
        """Token ids of what the template writes behind a response."""
        rendered = self._joined(self.template.format_assistant.apply(content=MARK.format(0)))
        return self._ids(MARKED.split(rendered)[-1], [])

    def _ended(self, response_ids: list[int]) -> list[int]:
        """A response's ids up to the token that ends a turn."""
        if self.template.efficient_eos:  # its turns end without, and LLaMA-Factory's pairs with it
            return [*response_ids, self.tokenizer.eos_token_id]
        ids, stops = [*response_ids], {*self.stop_ids}
        for at in range(len(ids) - len(self._ending), len(ids)):
            if ids[at] in stops:
                return ids[: at + 1]
        return ids
