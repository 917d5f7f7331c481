"""Sampling with vLLM itself, on the CPU: one process does it all, since its import takes longest."""

import importlib.util
import json
import shutil

import pytest
from commands import run_python
from vllm_lab import END_IDS, NEW_TOKENS, answers, make_sampler, requests

from dice.models.chat_template import load_chat

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


@pytest.fixture(scope="module")
def models(random_model, tmp_path_factory):
    """A plain model, one whose generation config is full of traps, adapters, a merged one, and no LM."""
    from adapters import make_adapter
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BertConfig, BertModel

    folder = tmp_path_factory.mktemp("vllm")
    for name in ("plain", "ends", "merged"):
        shutil.copytree(random_model, folder / name)
    traps = {"temperature": 0.1, "top_k": 1, "repetition_penalty": 1.9, "max_new_tokens": 3}
    traps |= {"eos_token_id": list(END_IDS), "do_sample": True}
    (folder / "ends" / "generation_config.json").write_text(json.dumps(traps))
    for name, options in (
        ("adapter", {}),
        ("dora", {"use_dora": True}),
        ("ranks", {"rank_pattern": {"down_proj": 2}}),
    ):
        make_adapter(folder / "plain", folder / name, 1, **options)
    shutil.copytree(folder / "adapter", folder / "pissa")
    config = json.loads((folder / "pissa" / "adapter_config.json").read_text())
    (folder / "pissa" / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    base = AutoModelForCausalLM.from_pretrained(folder / "plain")
    whole = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload()
    whole.save_pretrained(folder / "merged")
    small = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=99
    )
    BertModel(small).save_pretrained(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def found(models, tmp_path_factory):
    output = tmp_path_factory.mktemp("lab") / "found.json"
    script = "import sys, vllm_lab; vllm_lab.lab(*sys.argv[1:])"
    result = run_python(script, str(models), str(output))
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def chat(models):
    return load_chat(str(models / "plain"), "llama3-custom")


def hf(models, chat, name, **options):
    return answers(make_sampler("hf", models / name, chat, **options).sample(requests(chat)))


def test_every_prompt_gets_k_different_answers(found):
    assert found["plain"].keys() == {f"p{n} {k}" for n in range(40) for k in range(4)}
    assert len({tuple(ids) for ids, _ in found["plain"].values()}) > 150


def test_answers_do_not_depend_on_what_is_sampled_beside_them(found):
    """What workers and kills change: which prompts an engine has, in which order, how many at once."""
    whole = found["plain"]
    for part in ("second half alone", "one by one", "four at a time, backwards"):
        assert found[part] == {key: whole[key] for key in found[part]}
    assert len(found["second half alone"]) == 80 and len(found["four at a time, backwards"]) == 160
    forwards, backwards = found["top_p"]
    assert forwards == backwards != whole


def test_batches_are_those_of_offline_inference(found):
    """An engine that is not told what it is for runs 128 rows at once, on the largest GPU as well."""
    assert found["rows at once"] >= 256


def test_an_answer_that_waits_for_memory_goes_on_as_if_it_had_not(found):
    little, roomy = found["stopped and gone on with"]
    assert found["preemptions"] > 0 and little == roomy


def test_requests_are_taken_as_there_is_room(found):
    """Four samples run at once, eight are enough to have: two prompts, or a third where one ended early."""
    assert found["lazily"] in (2, 3)


def test_greedy_answers_equal_those_of_hf(found, models, chat):
    assert found["greedy"] == hf(models, chat, "plain", samples=1, temperature=0.0)


def test_only_end_tokens_are_taken_from_a_generation_config(found, models, chat):
    """Both engines: what the plain model says, up to the first of the end tokens."""

    def cut(ids, reason):
        ends = [place for place, token in enumerate(ids) if token in END_IDS]
        return [ids[: ends[0] + 1], "stop"] if ends else [ids, reason]

    assert found["ends"] == {key: cut(*answer) for key, answer in found["plain"].items()}
    assert found["ends"] != found["plain"]
    of_hf = {key: cut(*answer) for key, answer in hf(models, chat, "plain").items()}
    assert hf(models, chat, "ends") == of_hf


def test_cut_off_answers_are_flagged_and_others_end_with_a_stop_token(found, chat):
    stops = {*chat.stop_ids}
    for ids, reason in found["plain"].values():
        assert (reason == "stop") == (ids[-1] in stops) and not stops & {*ids[:-1]}
        assert reason == "stop" or len(ids) == NEW_TOKENS


def test_an_adapter_answers_as_its_merged_model(found, models, chat):
    assert found["adapter"] == found["merged"] != found["plain"]
    assert hf(models, chat, "adapter") == hf(models, chat, "merged") != hf(models, chat, "plain")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("temprature", "generate.engine_args: vLLM's engine has no option 'temprature'"),
        ("max_nun_seqs", "no option 'max_nun_seqs'; did you mean max_num_seqs?"),
        ("gpu_memory_utilization", "gpu_memory_utilization: Input should be less than or equal to 1"),
        ("max_num_seqs", "max_num_seqs: Input should be a valid integer"),
        ("quantization", "Unknown quantization method: nope"),
        ("context", "max_model_len (1048576) is greater than the derived max_model_len"),
        ("temperature", "temperature must be in [0, 2], got 5.0"),
        ("bert", "Embedding models do not support"),
        ("dora", "(use_dora): use generate.engine=hf, or a merged model"),
        ("ranks", "(rank_pattern): use generate.engine=hf, or a merged model"),
        ("pissa", "(bias or init_lora_weights, which change the base): use generate.engine=hf"),
    ],
)
def test_what_vllm_can_not_do_is_one_line(found, what, message):
    said = found["complaints"][what]
    assert message in said and "\n" not in said and len(said) < 500
