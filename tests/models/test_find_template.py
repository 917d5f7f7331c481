"""`template: auto` finds the template that reads text as the model's own, or names what comes nearest."""

import pytest
from chat_templates import FAMILIES, make_tokenizer
from small_tokenizers import CHATML, byte_level

from dice.errors import BadInput
from dice.models.chat_template import load_chat, load_tokenizer
from dice.models.find_template import OtherSystemPrompt


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.found])
def test_a_family_that_is_known(name, tmp_path):
    """Its whole conversations, of several turns too, have the token ids that its own template gives."""
    model = make_tokenizer(FAMILIES[name], tmp_path)
    chat = load_chat(model, "auto")
    assert chat.name == FAMILIES[name].found
    turns = [
        {"role": role, "content": text}
        for role, text in (("user", "One?"), ("assistant", "Two!"), ("user", "3"))
    ]
    own = load_tokenizer(model)
    text = own.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert chat.encode_prompt(turns) == own.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.found])
def test_a_family_that_is_not(name, tmp_path):
    with pytest.raises(BadInput, match=r"reads as the model's own does; nearest are .*instead of") as refused:
        load_chat(make_tokenizer(FAMILIES[name], tmp_path), "auto")
    assert f"{FAMILIES[name].nearest}" in str(refused.value)
    if name == "SmolLM2":  # whose default system prompt alone is another one
        assert refused.type is OtherSystemPrompt and refused.value.template == "smollm2"


def test_a_template_that_thinks_or_not(tmp_path):
    model = make_tokenizer(FAMILIES["Qwen 3"], tmp_path)
    assert load_chat(model, "auto", enable_thinking=False).name == "qwen3"


def test_a_model_without_a_chat_template(tmp_path):
    with pytest.raises(BadInput, match="has no chat template to compare with; name the template"):
        load_chat(byte_level(tmp_path, CHATML, eos="<|im_end|>"), "auto")
