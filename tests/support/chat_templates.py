"""Chat templates that render as those of public families of models do, in short texts of our own."""

from pathlib import Path
from typing import NamedTuple

from small_tokenizers import byte_level
from transformers import AutoTokenizer


class Family(NamedTuple):
    """A chat template, the special tokens of its tokenizer, and which template of LLaMA-Factory it equals.

    `found` is None where it equals none; `nearest` must then be named.
    """

    template: str
    special: tuple[str, ...]
    eos: str
    found: str | None
    bos: str | None = None
    nearest: str = ""


def _turns(begin: str, end: str, ask: str, before: str = "", **roles: str) -> str:
    """A template that writes every turn as begin + content + end; `roles` are other names of roles."""
    named = "".join(
        f"{{% if m.role == '{role}' %}}{{% set r = '{name}' %}}{{% endif %}}" for role, name in roles.items()
    )
    each = begin.replace("ROLE", "{{ r }}") + "{{ m.content }}" + end
    turns = f"{{% for m in messages %}}{{% set r = m.role %}}{named}{each}{{% endfor %}}"
    return f"{before}{turns}{{% if add_generation_prompt %}}{ask}{{% endif %}}"


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def _chatml(default_system: str = "") -> str:
    said = f"<|im_start|>system\n{default_system}<|im_end|>\n"
    before = f"{{% if messages[0].role != 'system' %}}{said}{{% endif %}}" if default_system else ""
    return _turns("<|im_start|>ROLE\n", "<|im_end|>\n", "<|im_start|>assistant\n", before)


def _instruct(before_answer: str, after: str, first: str = "", end: str = "[/INST]") -> str:
    """[INST] in front of the user's turns; without system prompts."""
    asked, said = f"[INST] {{{{ m.content }}}}{end}", f"{before_answer}{{{{ m.content }}}}{after}"
    turn = f"{{% if m.role == 'user' %}}{asked}{{% else %}}{said}{{% endif %}}"
    return f"{NO_SYSTEM}{first}{{% for m in messages %}}{turn}{{% endfor %}}"


_THOUGHT = "<think>\\n\\n</think>\\n\\n"
_QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    f"{{% if m.role == 'assistant' and loop.last %}}{{{{ '{_THOUGHT}' }}}}{{% endif %}}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    f"{{% if enable_thinking is false %}}{{{{ '{_THOUGHT}' }}}}{{% endif %}}{{% endif %}}"
)
_HEADER = "<|start_header_id|>ROLE<|end_header_id|>\n\n"
_GEMMA = "<start_of_turn>ROLE\n"
_GRANITE = "<|start_of_role|>ROLE<|end_of_role|>"
_COHERE = "<|START_OF_TURN_TOKEN|><|ROLE_TOKEN|>"
FAMILIES = {
    "SmolLM2": Family(
        _chatml("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
        CHATML_TOKENS, "<|im_end|>", None, nearest="smollm2",  # which ends its system prompt with a full stop
    ),
    "Qwen 2.5": Family(
        _chatml("You are Qwen, created by Alibaba Cloud. You are a helpful assistant."),
        CHATML_TOKENS, "<|im_end|>", "qwen",
    ),
    "Qwen 3": Family(_QWEN3, CHATML_TOKENS, "<|im_end|>", "qwen3"),
    "Yi 1.5": Family(_chatml(), CHATML_TOKENS, "<|im_end|>", "chatml"),
    "Llama 3": Family(
        _turns(_HEADER, "<|eot_id|>", _HEADER.replace("ROLE", "assistant"), "<|begin_of_text|>"),
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
        "<|eot_id|>", "llama3", "<|begin_of_text|>",
    ),
    "Llama 2": Family(
        _instruct(" ", " </s>", end=" [/INST]").replace("[INST]", "<s>[INST]"),
        ("<s>", "</s>"), "</s>", None, "<s>", nearest="llama2",  # with spaces around answers
    ),
    "Mistral 0.3": Family(_instruct(" ", "</s>", "<s>"), ("<s>", "</s>"), "</s>", "mistral", "<s>"),
    "Gemma 2": Family(
        NO_SYSTEM
        + _turns(_GEMMA, "<end_of_turn>\n", _GEMMA.replace("ROLE", "model"), "<bos>", assistant="model"),
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<eos>", "gemma", "<bos>",
    ),
    "Phi 3": Family(
        _turns("<|ROLE|>\n", "<|end|>\n", "<|assistant|>\n"),
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), "<|endoftext|>", "phi",
    ),
    "Zephyr": Family(
        _turns("<|ROLE|>\n", "</s>\n", "<|assistant|>\n"),
        ("<s>", "</s>"), "</s>", None, "<s>", nearest="zephyr-custom",  # which begins with a system prompt
    ),
    "Command R": Family(
        _turns(
            _COHERE, "<|END_OF_TURN_TOKEN|>", _COHERE.replace("ROLE", "CHATBOT"), "<BOS_TOKEN>",
            user="USER", assistant="CHATBOT", system="SYSTEM",
        ),
        ("<BOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
         "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
        "<|END_OF_TURN_TOKEN|>", "cohere", "<BOS_TOKEN>",
    ),
    "Granite 3": Family(
        _turns(_GRANITE, "<|end_of_text|>\n", _GRANITE.replace("ROLE", "assistant")),
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"), "<|end_of_text|>", "granite3",
    ),
    "nobody's": Family(
        _turns("[[ROLE]] ", "\n", "[[assistant]] "), ("</s>",), "</s>", None, nearest="(",
    ),
}  # fmt: skip


def make_tokenizer(family: Family, folder: Path) -> str:
    """A folder with a small tokenizer that has a family's special tokens and chat template."""
    names = {"eos": family.eos} | ({"bos": family.bos} if family.bos else {})
    tokenizer = AutoTokenizer.from_pretrained(byte_level(folder, family.special, **names))
    tokenizer.chat_template = family.template
    tokenizer.save_pretrained(folder)
    return str(folder)
