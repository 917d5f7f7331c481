"""The doctor on texts: does the template fit the model, do all stages read the same token ids?"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dice.errors import counted, first_line
from dice.models.chat_template import load_tokenizer
from dice.models.checkpoint import base_of, tokenizer_home
from dice.models.own_template import Unrendered, rendered
from dice.models.reference_table import IGNORED
from dice.run import files
from dice.run.rows import Message, Preference
from dice.tools.doctor.findings import FAULT, FINE, OPEN, WARNING, Case, Finding, Look, looks_at, spread
from dice.tools.doctor.training_rows import training_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARK = re.compile(r"<\|?[\w/-]+\|?>|\[/?[A-Z_]+\]")  # <|user|>, <start_of_turn>, [INST]
SHOWN = 8  # token ids of a difference that a message shows
TRAINED_WITH = "set template to the one that the policy was trained with"


def text_checks(case: Case) -> Iterator[Look]:
    """All of them, as far as there is something to look at."""
    yield from looks_at(case, texts)
    if case.chat is not None:
        yield from looks_at(case, chat_template, end_of_turn)
        if case.pairs:
            yield from looks_at(case, token_ids, special_tokens, round_trip, room)
        if case.offline:
            yield from looks_at(case, cutoff)


def texts(case: Case) -> Finding:
    """Are there a tokenizer and rows to look at?"""
    if case.chat is None:
        return Finding(OPEN, "texts", "there is no tokenizer here that goes with the template")
    if not case.pairs:
        return Finding(OPEN, "texts", "there are no rows here to look at, but the template")
    return Finding(
        FINE,
        "texts",
        f"{counted(len(case.pairs), 'pair')} and {counted(len(case.prompts), 'prompt')} to look at",
    )


def chat_template(case: Case) -> Finding:
    """Does the recipe's template render what the policy's own chat template renders, for what the data has?

    A default system prompt of spaces (zephyr-custom's) may be there for one and not for the other.
    """
    topic, name = "chat template", case.recipe.template
    own = load_tokenizer(case.home("policy"))
    if not own.chat_template:
        return _marks(case)
    blank = case.chat.template.default_system
    blanks = [blank] if blank and not blank.strip() else []
    uncompared = []
    for variant, (messages, rows) in _variants(case).items():
        theirs, reason = _rendered(own, messages, blanks)
        if not theirs:
            uncompared.append(f"{counted(rows, 'row')} {variant} ({reason})")
            continue
        ours = case.chat.tokenizer.decode(case.chat.encode_prompt(messages))
        # Where their template has no BOS their tokenizer may add it.
        if not {ours.strip(), ours.removeprefix(own.bos_token or "").strip()} & {*theirs}:
            what = f"{variant}: {name} renders {ours!r:.150}, the policy's own {theirs[0]!r:.150}"
            return Finding(WARNING, topic, what, f"{TRAINED_WITH}; where that is this one, go on")
    if uncompared:
        what = f"not compared, as the policy's own refuses or fails: {', '.join(uncompared)}"
        return Finding(
            WARNING, topic, what, "take such rows out, or go on if the policy was trained with them"
        )
    return Finding(FINE, topic, f"{name} renders what the policy's own does")


def _variants(case: Case) -> dict[str, tuple[list[Message], int]]:
    """A prompt of each kind that the data has, by what it is, and how many rows are of the kind."""
    user, answer = (Message(role=role, content="Hi there") for role in ("user", "assistant"))
    system = Message(role="system", content="Be kind.")
    roles = [{turn["role"] for turn in messages} for messages in case.conversations]
    with_system = sum("system" in kinds for kinds in roles)
    found = {
        "without a system prompt": ([user], len(roles) - with_system),
        "with a system prompt": ([system, user], with_system),
        "with several turns": ([user, answer, user], sum("assistant" in kinds for kinds in roles)),
    }
    # Without any rows the plainest prompt stands for them.
    return {variant: kind for variant, kind in found.items() if kind[1] or (not roles and kind[0] == [user])}


def _rendered(
    own: "PreTrainedTokenizerBase", messages: list[Message], systems: list[str]
) -> tuple[list[str], str]:
    """What a tokenizer's own template makes of a prompt, and of it behind `systems` where it has none.

    Nothing where it can't be rendered, as by a template that takes no system prompt; then also why.
    """
    with_system = messages[0]["role"] == "system"
    prompts = [messages]
    prompts += [] if with_system else [[Message(role="system", content=text), *messages] for text in systems]
    found, reasons = [], []
    for prompt in prompts:
        try:
            found.append(rendered(own, prompt, asking=True).strip())
        except Unrendered as reason:
            reasons.append(str(reason))
    return found, "".join(reasons[:1])


def _marks(case: Case) -> Finding:
    """Are the template's marks, such as <|user|>, tokens of a policy without a chat template of its own?"""
    tokenizer = case.chat.tokenizer
    rendered = tokenizer.decode(case.chat.encode_prompt([Message(role="user", content="Hi")]))
    known = tokenizer.get_vocab()
    if unknown := sorted({mark for mark in MARK.findall(rendered) if mark not in known}):
        what = f"{', '.join(unknown)} of {case.recipe.template} are no tokens of the policy's but text"
        return Finding(WARNING, "chat template", what, f"{TRAINED_WITH}; where that is this one, go on")
    return Finding(FINE, "chat template", "the policy has none of its own, and all of the template's tokens")


def end_of_turn(case: Case) -> Finding:
    """Does a turn end with a token that sampling stops at, and that the policy ends with?"""
    topic, name, tokenizer = "end of turn", case.recipe.template, case.chat.tokenizer
    tail = case.chat.encode([Message(role="user", content="Hi")], "Hello")[1][-3:]
    ends = [token for token in tail if token in case.chat.stop_ids]
    if not ends:
        what = f"template {name} ends a turn with {tokenizer.decode(tail)!r}, where sampling does not stop"
        return Finding(FAULT, topic, what, TRAINED_WITH)
    home = case.home("policy")
    own = _own_ends(Path(base_of(home) or home)) | {load_tokenizer(home).eos_token_id} - {None}
    end = tokenizer.convert_ids_to_tokens(ends[-1])
    if ends[-1] in own:
        every = ", ".join(tokenizer.convert_ids_to_tokens(sorted({*case.chat.stop_ids, *own})))
        return Finding(FINE, topic, f"{end}, for the template and for the policy; sampling stops at {every}")
    theirs = ", ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(own)))) or "nothing"
    what = f"template {name} ends a turn with {end}, the policy with {theirs} (its generation_config.json)"
    return Finding(WARNING, topic, what, f"{TRAINED_WITH}, or responses may run on to max_new_tokens")


def _own_ends(folder: Path) -> set[int]:
    """EOS ids that a model's generation_config.json and config.json name."""
    found: set[int] = set()
    for file in ("generation_config.json", "config.json"):
        eos = (files.read_json(folder / file) or {}).get("eos_token_id")
        found |= set(eos) if isinstance(eos, list) else {eos} - {None}
    return found


def token_ids(case: Case) -> Finding:
    """The same ids in generation, in scoring and in training, on rows of the real data."""
    topic, args = "token ids", case.recipe.train.args
    scored = [case.chat.encode(pair.messages, text) for pair in case.pairs for text in _answers(pair)]
    sampled = [case.chat.encode_prompt(pair.messages) for pair in case.pairs for _ in _answers(pair)]
    for (prompt, _), ids in zip(scored, sampled, strict=True):
        if prompt != ids and case.recipe.template_ids == "pieces":
            what = f"scoring reads a prompt differently than generation: {_difference(case, ids, prompt)}"
            return Finding(FAULT, topic, what, "take another template: in this one responses change prompts")
    try:
        trained = training_rows(case.pairs, tokenizer_home(case.home("policy")), case.recipe.template, args)
    except (ValueError, TypeError, OSError) as error:
        what = f"LLaMA-Factory can't prepare rows for training: {first_line(error)}"
        return Finding(FAULT, topic, what, "correct the training file")
    ours = [(prompt + said, [IGNORED] * len(prompt) + said) for prompt, said in scored]
    told = f"the same in generation, scoring and training, on {len(scored):,} answers"
    apart = [
        (mine, theirs) for mine, theirs in zip(ours, trained, strict=True) if mine != _ended(mine, theirs)
    ]
    if apart:
        (ids, _), (others, _) = apart[0]
        told += (
            f"; LLaMA-Factory by itself, turn by turn, reads {len(apart):,} of them otherwise "
            f"({_difference(case, ids, others)})"
        )
    return Finding(FINE, topic, told)


Row = tuple[list[int], list[int]]  # token ids and labels


def _ended(ours: Row, theirs: Row) -> Row:
    """LLaMA-Factory's row without what a template writes behind the token that ends a turn."""
    ids, labels = theirs
    return (ids[: len(ours[0])], labels[: len(ours[1])])


def _answers(pair: Preference) -> tuple[str, str]:
    return pair.chosen, pair.rejected


def _difference(case: Case, expected: Sequence[int], found: Sequence[int]) -> str:
    """Where two rows of ids part, as text."""
    pairs = enumerate(zip(expected, found, strict=False))
    at = next((index for index, (a, b) in pairs if a != b), min(len(expected), len(found)))
    ours, theirs = (case.chat.tokenizer.decode(ids[at : at + SHOWN]) for ids in (expected, found))
    return f"at token {at}, {theirs!r} instead of {ours!r}"


def special_tokens(case: Case) -> Finding:
    """Do texts name special tokens, such as </s>, and what becomes of them?"""
    topic, recipe = "special tokens", case.recipe
    texts = [turn["content"] for messages in case.conversations for turn in messages]
    texts += [text for pair in case.pairs for text in _answers(pair)]
    named = sum(map(case.chat.names_special_token, texts))
    if not named:
        return Finding(FINE, topic, f"none is named in the {len(texts):,} texts looked at")
    told = f"{counted(named, 'text')} of {len(texts):,} looked at name one"
    if recipe.special_tokens_in_text or recipe.template_ids == "pieces":
        advice = "set special_tokens_in_text: false (and template_ids: whole), unless all texts are trusted"
        return Finding(WARNING, topic, f"{told}; they become that token", advice)
    return Finding(FINE, topic, f"{told}; they are read as text")


def round_trip(case: Case) -> Finding:
    """Is a response that is decoded and encoded again, as between generation and scoring, the same text?"""
    topic = "round trip"
    texts = [text for pair in case.pairs for text in _answers(pair)]
    back = [case.chat.decode(case.chat.encode(case.pairs[0].messages, text)[1]) for text in texts]
    changed = [(a, b) for a, b in zip(texts, back, strict=True) if a.strip() != b.strip()]
    if not changed:
        return Finding(FINE, topic, f"{counted(len(texts), 'answer')} read back from token ids unchanged")
    text, other = changed[0]
    at = next(
        (i for i, (a, b) in enumerate(zip(text, other, strict=False)) if a != b), min(len(text), len(other))
    )
    what = f"{len(changed)} of {len(texts)} answers come back from their token ids as another text: "
    what += f"{other[at : at + 20]!r} instead of {text[at : at + 20]!r}"
    return Finding(WARNING, topic, what, "take a model whose tokenizer has all of your texts' characters")


def _prompt_lengths(case: Case) -> list[int]:
    """Tokens of some prompts, spread over the data."""
    return [len(case.chat.encode_prompt(messages)) for messages in spread(case.prompts)] or [
        len(case.chat.encode_prompt(pair.messages)) for pair in case.pairs
    ]


def room(case: Case) -> Finding:
    """Do prompts leave room for max_new_tokens, under the policy's context and under score.cutoff_len?"""
    topic, recipe = "room", case.recipe
    size = case.sizes["policy"]
    context = size.context if size else None
    limit = min(filter(None, (context, recipe.generate.max_model_len)), default=None)
    wanted, lengths = recipe.generate.max_new_tokens, _prompt_lengths(case)
    longest = max(lengths) + wanted
    if context and recipe.score.cutoff_len > context and longest > context:
        what = f"score.cutoff_len is {recipe.score.cutoff_len:,}, the policy was made for {context:,} tokens"
        return Finding(WARNING, topic, what, f"set score.cutoff_len={context}")
    for name, tokens, happens in (
        ("the policy's context", limit, "cut off and dropped"),
        ("score.cutoff_len", recipe.score.cutoff_len, "dropped where they use it"),
    ):
        tight = [length for length in lengths if tokens and length + wanted > tokens]
        if tight:
            what = (
                f"generate.max_new_tokens {wanted:,} behind {len(tight)} of {len(lengths)} prompts looked at "
                f"(up to {max(tight):,} tokens) is more than {name}, {tokens:,}: such responses are {happens}"
            )
            least = max(1, tokens - max(tight))
            return Finding(WARNING, topic, what, f"set generate.max_new_tokens={least}, or raise the limit")
    return Finding(FINE, topic, f"prompts of up to {max(lengths):,} tokens and {wanted:,} new ones fit")


def cutoff(case: Case) -> Finding:
    """Are offline pairs short enough to be trained on?"""
    topic, limit = "cutoff", case.recipe.score.cutoff_len
    lengths = [
        max(sum(map(len, case.chat.encode(p.messages, text))) for text in _answers(p)) for p in case.offline
    ]
    over = sum(length > limit for length in lengths)
    if not over:
        return Finding(
            FINE, topic, f"pairs of up to {max(lengths):,} tokens are under score.cutoff_len {limit:,}"
        )
    level = FAULT if over == len(lengths) else WARNING
    what = f"{over} of {len(lengths)} offline pairs are over score.cutoff_len {limit:,}: training drops them"
    return Finding(level, topic, what, f"raise score.cutoff_len (the longest has {max(lengths):,} tokens)")
