"""The doctor on texts: templates, token ids, lengths, each made to go wrong."""

import json

import pytest
from doctored import change_json, found

from dice.models.llamafactory import llamafactory
from dice.tools.doctor import texts
from dice.tools.doctor.findings import FAULT, FINE, WARNING

pytestmark = pytest.mark.slow

LLAMA3 = "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
ASKING = "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"


@pytest.mark.parametrize(
    ("turn", "level", "told"),
    [
        (LLAMA3, FINE, "renders what the policy's own does"),
        (
            LLAMA3.replace("\n\n", "\n"),
            WARNING,
            "without a system prompt: llama3-custom renders '<|begin_of_text|><|start_header_id|>user",
        ),
        # Ten prompts, twenty offline pairs, and the same ten prompts held out.
        (
            "{{ raise_exception('not like this') }}",
            WARNING,
            "the policy's own refuses or fails: 40 rows without a system prompt (not like this)",
        ),
        ("{{ 1 // 0 }}", WARNING, "40 rows without a system prompt (ZeroDivisionError: integer division"),
    ],
)
def test_a_chat_template_of_the_policys_own(settings, policy, turn, level, told):
    loop = "{{ bos_token }}{% for m in messages %}" + turn + "{% endfor %}" + ASKING
    (policy / "chat_template.jinja").write_text(loop)
    finding = found("chat template", *settings, f"policy={policy}")
    assert (finding.level, told in finding.what) == (level, True), finding


@pytest.mark.parametrize(
    ("row", "level", "told"),
    [
        ({}, FINE, "renders what the policy's own does"),
        ({"system": "Be brief."}, WARNING, "with a system prompt: llama3-custom renders"),
        ({"history": [["Hi", "Ho"]]}, WARNING, "several turns: llama3-custom renders"),
    ],
)
def test_a_chat_template_that_differs_in_what_the_data_has(settings, policy, data_dir, row, level, told):
    """A template that leaves out system prompts and answers: no matter, unless there are some."""
    loop = "{% for m in messages %}{% if m['role'] == 'user' %}" + LLAMA3 + "{% endif %}{% endfor %}"
    (policy / "chat_template.jinja").write_text("{{ bos_token }}" + loop + ASKING)
    columns = {"prompt": "instruction", "system": "system", "history": "history"}
    entries = json.loads((data_dir / "dataset_info.json").read_text())
    entries["varied"] = {"file_name": "varied.json", "columns": columns}
    (data_dir / "dataset_info.json").write_text(json.dumps(entries))
    (data_dir / "varied.json").write_text(
        json.dumps([{"instruction": "Tell me.", "system": "", "history": [], **row}])
    )
    finding = found("chat template", *settings, f"policy={policy}", "prompts=varied")
    assert (finding.level, told in finding.what) == (level, True), finding


def test_rows_that_the_policys_own_template_refuses(settings, policy, data_dir):
    """Gemma 2's refuses system prompts. Three rows have one, the last of many."""
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    (policy / "chat_template.jinja").write_text(
        refuse + "{% endif %}{{ bos_token }}{% for m in messages %}" + LLAMA3 + "{% endfor %}" + ASKING
    )
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected", "system": "system"}
    entries = json.loads((data_dir / "dataset_info.json").read_text())
    entries["varied"] = {"file_name": "varied.json", "ranking": True, "columns": columns}
    (data_dir / "dataset_info.json").write_text(json.dumps(entries))
    rows = [
        {"instruction": f"Tell me {n}.", "chosen": "a", "rejected": "b", "system": ""} for n in range(200)
    ]
    for row in rows[-3:]:
        row["system"] = "Be brief."
    (data_dir / "varied.json").write_text(json.dumps(rows))
    finding = found("chat template", *settings, f"policy={policy}", "replay.dataset=varied")
    assert finding.level == WARNING
    assert finding.what.endswith("3 rows with a system prompt (System role not supported)"), finding


def test_marks_that_are_no_tokens(settings):
    """The random model has no chat template of its own, and reads zephyr's marks as text."""
    assert found("chat template", *settings).level == FINE
    finding = found("chat template", *settings, "template=zephyr-custom")
    assert finding.level == WARNING
    assert finding.what.startswith("<|assistant|>, <|system|>, <|user|> of zephyr-custom are no tokens")


def test_a_chat_template_with_a_bos_that_ours_lacks(settings, policy):
    text = "{{ bos_token }}<|system|>\n{{ messages[0]['content'] }}<|eot_id|>\n<|user|>\n"
    text += "{{ messages[1]['content'] }}<|eot_id|>\n<|assistant|>\n"
    (policy / "chat_template.jinja").write_text(text)
    change_json(policy / "tokenizer_config.json", eos_token="<|eot_id|>")
    overrides = [*settings, f"policy={policy}", "template=zephyr-custom"]
    assert found("chat template", *overrides).level == WARNING
    (policy / "chat_template.jinja").write_text(text.removeprefix("{{ bos_token }}"))
    assert found("chat template", *overrides).level == FINE


def test_a_template_without_an_end(settings):
    finding = found("end of turn", *settings, "template=empty")
    assert finding.level == FAULT and "ends a turn with 'Hello', where sampling does not stop" in finding.what


def test_a_policy_that_ends_otherwise(settings, policy):
    """The base ends with <|end_of_text|>, the template with <|eot_id|>; generation_config may know both."""
    change_json(policy / "config.json", eos_token_id=1)
    change_json(policy / "generation_config.json", eos_token_id=1)
    finding = found("end of turn", *settings, f"policy={policy}")
    assert finding.level == WARNING
    assert "ends a turn with <|eot_id|>, the policy with <|end_of_text|>" in finding.what
    change_json(policy / "generation_config.json", eos_token_id=[1, 4])
    assert found("end of turn", *settings, f"policy={policy}").level == FINE


def test_rows_that_llama_factory_reads_otherwise(settings, monkeypatch):
    """As it does with SentencePiece; here by an argument that a recipe can't give."""
    rows = texts.training_rows
    with monkeypatch.context() as changed:
        changed.setattr(texts, "training_rows", lambda *given: rows(*given[:-1], {"default_system": "Hey"}))
        finding = found("token ids", *settings, "template=zephyr-custom")
    assert finding.level == FINE
    assert "LLaMA-Factory by itself, turn by turn, reads 40 of them otherwise (at token " in finding.what
    assert "'Hey" in finding.what
    assert "LLaMA-Factory" not in found("token ids", *settings, "template=zephyr-custom").what


def test_texts_that_name_special_tokens(settings, data_dir):
    assert found("special tokens", *settings).what == "none is named in the 80 texts looked at"
    rows = [json.loads(line) for line in (data_dir / "pairs.jsonl").read_text().splitlines()]
    rows[0]["chosen"] = "Bye.<|eot_id|>"
    (data_dir / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    finding = found("special tokens", *settings)
    assert finding.level == FINE and finding.what.endswith("looked at name one; they are read as text")
    finding = found("special tokens", *settings, "special_tokens_in_text=true")
    assert finding.level == WARNING and finding.what.endswith("they become that token")


def test_a_training_file_that_llama_factory_refuses(settings):
    finding = found("token ids", *settings, "train.image_max_pixels=1")
    assert finding.level == FAULT and "`image_max_pixels` cannot be smaller than" in finding.what


def test_prompts_that_change_with_their_response(settings):
    """A template of one's own that looks at the response before it renders the prompt."""
    registry = llamafactory("data.template")

    class Peeking(registry.Template):
        def encode_oneturn(self, tokenizer, messages, system=None, tools=None):
            prompt, response = super().encode_oneturn(tokenizer, messages, system, tools)
            return (prompt if messages[-1]["content"] else [*prompt, 70]), response

    registry.register_template(name="peeking", template_class=Peeking)
    try:
        finding = found("token ids", *settings, "template=peeking", "template_ids=pieces")
    finally:
        del registry.TEMPLATES["peeking"]
    assert finding.level == FAULT and "scoring reads a prompt differently than generation" in finding.what


def test_a_tokenizer_that_loses_letters(settings, policy):
    change_json(
        policy / "tokenizer.json", normalizer={"type": "Replace", "pattern": {"String": "e"}, "content": "a"}
    )
    finding = found("round trip", *settings, f"policy={policy}")
    assert (
        finding.level == WARNING and "answers come back from their token ids as another text" in finding.what
    )


@pytest.mark.parametrize(
    ("topic", "level", "overrides", "told"),
    [
        ("room", WARNING, ["generate.max_new_tokens=4090"], "is more than the policy's context, 4,096"),
        ("room", WARNING, ["score.cutoff_len=70"], "is more than score.cutoff_len, 70"),
        ("room", WARNING, ["generate.max_model_len=50"], "is more than the policy's context, 50"),
        (
            "room",
            WARNING,
            ["score.cutoff_len=9000", "generate.max_new_tokens=5000"],
            "score.cutoff_len is 9,000, the policy was made for 4,096 tokens",
        ),
        ("cutoff", FAULT, ["score.cutoff_len=10"], "20 of 20 offline pairs are over score.cutoff_len 10"),
    ],
)
def test_lengths(settings, topic, level, overrides, told):
    finding = found(topic, *settings, *overrides)
    assert (finding.level, told in finding.what) == (level, True), finding


def test_a_pair_that_is_too_long(settings, data_dir):
    pair = {"instruction": "Tell me all.", "chosen": "all " * 400, "rejected": "none"}
    with (data_dir / "pairs.jsonl").open("a") as file:
        file.write(json.dumps(pair) + "\n")
    finding = found("cutoff", *settings, "score.cutoff_len=300")
    assert finding.level == WARNING and "1 of 21 offline pairs are over" in finding.what
