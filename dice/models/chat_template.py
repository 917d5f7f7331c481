"""Models' tokenizers with a template of LLaMA-Factory's registry.

Two templates are added to the registry, `llama3-custom` and `zephyr-custom`: the ones the paper's
models were trained with. They differ from LLaMA-Factory's own `llama3` and `zephyr` (see
docs/method.md).
"""

import copy
import os
from typing import TYPE_CHECKING, Any

from dice.errors import BadInput, Unmade, first_line
from dice.models import remote_code
from dice.models.checkpoint import has_tokenizer, tokenizer_home
from dice.models.encoding import Chat, TemplateIds
from dice.models.find_template import OtherSystemPrompt, find_template
from dice.models.llamafactory import llamafactory
from dice.models.own_template import Unrendered, rendered
from dice.recipe.keys import AUTO
from dice.run.rows import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CUSTOM_TEMPLATES = ("llama3-custom", "zephyr-custom")


def load_chat(
    model: str,
    template: str,
    template_ids: TemplateIds = "whole",
    special_tokens_in_text: bool = False,
    enable_thinking: bool = True,
) -> Chat:
    """The tokenizer of `model` (a folder or a Hub id) with a LLaMA-Factory template.

    The other arguments are keys of a recipe. Raises BadInput for an unknown template, a model without a
    tokenizer, and a template whose special tokens the tokenizer lacks; for auto as `find_template` does.
    """
    register_templates()
    registry = llamafactory("data.template")
    if template not in registry.TEMPLATES and template != AUTO:
        raise BadInput(unknown_template(template))
    tokenizer = load_tokenizer(model)
    if template == AUTO:
        try:
            template = find_template(tokenizer, registry.TEMPLATES, enable_thinking)
        except BadInput as reason:
            refusal = f"template: auto: {os.fspath(model)!r}: {reason}"
            if isinstance(reason, OtherSystemPrompt):
                raise OtherSystemPrompt(refusal, reason.template) from None
            raise BadInput(refusal) from None
    known_tokens = set(tokenizer.get_vocab())
    arguments = llamafactory("hparams").DataArguments(template=template, enable_thinking=enable_thinking)
    try:
        # A copy, for LLaMA-Factory's registry holds one object of each template.
        found = copy.copy(registry.get_template_and_fix_tokenizer(tokenizer, arguments))
        chat = Chat(tokenizer, found, template_ids, special_tokens_in_text, template)
        prompt_ids = chat.encode_prompt([Message(role="user", content="Hi")])
    except Exception as error:  # of any kind: a tokenizer's files say what is called with what
        reason = first_line(error)
        raise BadInput(
            f"template {template!r} can't be used with the tokenizer of {os.fspath(model)!r}: {reason}"
        ) from error
    if added := sorted(set(tokenizer.get_vocab()) - known_tokens):
        raise BadInput(
            f"template {template!r} needs the tokens {', '.join(added)}, which the tokenizer of "
            f"{os.fspath(model)!r} does not have: use the template that the model was trained with"
        )
    bos = tokenizer.bos_token_id
    if bos is not None and prompt_ids[:2] == [bos, bos]:
        raise BadInput(
            f"prompts begin with {tokenizer.bos_token} twice: template {template!r} and the tokenizer of "
            f"{os.fspath(model)!r} both add it; take it out of one of them"
        )
    return chat


def load_tokenizer(model: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a folder or a Hub id, of an adapter its base's. Raises BadInput without one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            tokenizer_home(model), padding_side="right", **remote_code.config_options()
        )
        # Where there are no files, transformers makes an empty tokenizer of some families.
        if tokenizer.get_vocab().keys() <= tokenizer.get_added_vocab().keys():
            raise ValueError("its files hold no vocabulary")
    except Exception as error:  # tokenizers raises the plain kind for what it can't read
        reason = first_line(error)
        raise BadInput(f"the tokenizer of {os.fspath(model)!r} can't be loaded: {reason}") from error
    return tokenizer


def check_alike(policy: str, reference: str) -> str:
    """Says what of two models is alike, as `Unmade` where one's chat template can't be rendered.

    Raises BadInput where they don't read the same text as the same tokens: then a difference of their
    log-probs means nothing. Compared are the vocabularies and, where both have one, the chat templates. A
    reference's folder without a tokenizer is taken to share the policy's.
    """
    if not has_tokenizer(reference):
        return "the reference has no tokenizer, and is taken to read text as the policy does"
    ours, theirs = load_tokenizer(policy), load_tokenizer(reference)
    vocabulary, other = ours.get_vocab(), theirs.get_vocab()
    apart = sorted(t for t in vocabulary if other.get(t) != vocabulary[t] and t != ours.pad_token)
    if apart:
        shown = ", ".join(f"{t!r} is {vocabulary[t]} and {other.get(t, 'missing')}" for t in apart[:5])
        raise BadInput(
            f"policy {policy!r} and reference {reference!r} have different vocabularies: {len(apart):,} of "
            f"{len(vocabulary):,} tokens differ ({shown}{', ...' if len(apart) > 5 else ''})"
        )
    if not (ours.chat_template and theirs.chat_template):
        return "policy and reference have one vocabulary, and no two chat templates to compare"
    turns = [Message(role="user", content="Hi"), Message(role="assistant", content="Hello!")]
    try:
        first, second = (rendered(tokenizer, turns) for tokenizer in (ours, theirs))
    except Unrendered as reason:
        return Unmade(f"not compared: a chat template of policy or reference can't be rendered ({reason})")
    if first != second:
        at = len(os.path.commonprefix([first, second]))
        raise BadInput(
            f"policy {policy!r} and reference {reference!r} have different chat templates: after "
            f"{first[:at][-30:]!r} comes {first[at:][:30]!r} in one, {second[at:][:30]!r} in the other"
        )
    return "policy and reference read text alike"


def known_templates() -> list[str]:
    """Names in LLaMA-Factory's registry, ours included; sorted."""
    register_templates()
    return sorted(llamafactory("data.template").TEMPLATES)


def unknown_template(name: str) -> str:
    """The message for a template that does not exist."""
    return f"unknown template {name!r}; there are: {', '.join(known_templates())}"


def register_templates() -> None:
    """Add `llama3-custom` and `zephyr-custom` to LLaMA-Factory's registry, once."""
    template = llamafactory("data.template")
    if CUSTOM_TEMPLATES[0] in template.TEMPLATES:
        return
    formatter = llamafactory("data.formatter")

    def string(*slots: Any) -> Any:
        return formatter.StringFormatter(slots=list(slots))

    class PieceTemplate(template.Template):
        """Tokenizes each piece (a turn as rendered) as one string, so ids do not depend on slots."""

        def _convert_elements_to_ids(self, tokenizer: Any, elements: list[Any]) -> list[int]:
            special = {"bos_token": tokenizer.bos_token, "eos_token": tokenizer.eos_token}
            texts = (e if isinstance(e, str) else special[next(iter(e))] or "" for e in elements)
            return tokenizer.encode("".join(texts), add_special_tokens=False)

    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    template.register_template(
        name="llama3-custom",
        format_prefix=formatter.EmptyFormatter(slots=[{"bos_token"}]),
        format_system=string(header.format("system") + "{{content}}<|eot_id|>"),
        format_user=string(header.format("user") + "{{content}}<|eot_id|>" + header.format("assistant")),
        format_assistant=string("{{content}}<|eot_id|>"),
        stop_words=["<|eot_id|>", "<|end_of_text|>"],
        replace_eos=True,
        template_class=PieceTemplate,
    )
    template.register_template(
        name="zephyr-custom",
        format_system=string("<|system|>\n{{content}}", {"eos_token"}),
        format_user=string("\n<|user|>\n{{content}}", {"eos_token"}, "\n<|assistant|>\n"),
        format_assistant=string("{{content}}", {"eos_token"}),
        default_system=" ",
        template_class=PieceTemplate,
    )
