"""A model's own chat template, which may be broken in any way that a program can be."""

import time

import pytest

from dice.errors import BadInput, Unmade
from dice.inference.reward_model import encoder
from dice.models import own_template
from dice.models.chat_template import check_alike, load_tokenizer
from dice.models.own_template import Unrendered, rendered

pytestmark = pytest.mark.slow

TURNS = [{"role": "user", "content": "Hi"}]
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
FOR_EVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BROKEN = {
    FOR_EVER: "it takes more than 0.2 s",
    "{{ 1 // 0 }}": "ZeroDivisionError: integer division or modulo by zero",
    "{{ 'x' * 10 ** 11 }}": "MemoryError",
    "{{ 'x' * 2 ** 24 }}": "it makes 16,777,216 characters of a short conversation",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError: maximum recursion depth exceeded",
    "{{ messages[0].content + 1 }}": 'TypeError: can only concatenate str (not "int") to str',
    "{{ messages[9].content }}": "list object has no element 9",
    "{{ raise_exception('System role not\nsupported') }}": "System role not",
    "{% for": "unexpected 'end of template'",
    "{{ 10 ** (10 ** 10) }}": "it takes more than 0.2 s",
}


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(own_template, "SECONDS", 0.2)


@pytest.mark.parametrize("template", BROKEN, ids=lambda template: template[:16])
def test_what_can_not_be_rendered_is_said(policy, template, monkeypatch):
    if "it takes" not in BROKEN[template]:  # what goes wrong in another way has the time for it
        monkeypatch.setattr(own_template, "SECONDS", 20)
    (policy / "chat_template.jinja").write_text(template)
    begun = time.monotonic()
    with pytest.raises(Unrendered) as told:
        rendered(load_tokenizer(str(policy)), TURNS)
    assert str(told.value).startswith(BROKEN[template]) and time.monotonic() - begun < 30


def test_what_can_be_rendered_is_rendered(policy):
    (policy / "chat_template.jinja").write_text(PLAIN + "{% if add_generation_prompt %}A:{% endif %}")
    tokenizer = load_tokenizer(str(policy))
    assert rendered(tokenizer, TURNS) == "user: Hi\n"
    assert rendered(tokenizer, [{"role": "user", "content": "é 漢"}], asking=True) == "user: é 漢\nA:"


@pytest.mark.parametrize("template", [FOR_EVER, "{{ 1 // 0 }}", "{{ raise_exception('no') }}"])
def test_models_whose_templates_can_not_be_compared(policy, random_model, tmp_path, template):
    """Not refused, since nothing of DICE uses them, but not called alike either."""
    (policy / "chat_template.jinja").write_text(template)
    told = check_alike(str(policy), str(policy))
    assert isinstance(told, Unmade) and told.startswith(
        "not compared: a chat template of policy or reference"
    )
    (policy / "chat_template.jinja").write_text(PLAIN)
    assert check_alike(str(policy), str(policy)) == "policy and reference read text alike"
    told = check_alike(str(policy), str(random_model))
    assert told == "policy and reference have one vocabulary, and no two chat templates to compare"
    (tmp_path / "bare").mkdir()
    told = check_alike(str(policy), str(tmp_path / "bare"))
    assert told == "the reference has no tokenizer, and is taken to read text as the policy does"


def test_a_reward_models_template_is_tried_within_limits(policy):
    (policy / "chat_template.jinja").write_text(FOR_EVER)
    with pytest.raises(BadInput, match="takes no such conversation: it takes more than"):
        encoder(str(policy), {"template": "llama3-custom"}, own_template=True)
    (policy / "chat_template.jinja").write_text("{{ 1 // (messages | length - 3) }}" + PLAIN)
    encode = encoder(str(policy), {"template": "llama3-custom"}, own_template=True)
    with pytest.raises(BadInput, match="takes no such conversation: integer division"):
        encode([*TURNS, *TURNS], "Yes")
