"""Sampling: by transformers and by vLLM, with a tiny random model."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
from float64 import one_by_one
from model_families import FAMILIES, VOCABULARY, some_fast
from sampling import PROMPTS, answers, requests, said, sampler

from dice.errors import BadInput
from dice.inference.load import load_sampler, resolve_engine
from dice.inference.sampler import Request
from dice.launch import devices
from dice.models.chat_template import load_chat
from dice.recipe.groups import Generate


@pytest.fixture(scope="module")
def chat(random_model):
    return load_chat(str(random_model), "llama3-custom")


def greedy_by_hand(model_path, prompt_ids, stop_ids, steps):
    """One token at a time, the whole sequence run again each time, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path).eval()
    ids = list(prompt_ids)
    for _ in range(steps):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stop_ids:
            break
    return ids[len(prompt_ids) :]


@pytest.mark.slow
def test_hf_gives_k_answers_that_depend_on_their_seed_alone(random_model, chat):
    engine = sampler("hf", random_model, chat)
    found = said(engine.sample(requests(chat)))
    assert found.keys() == {(text, k) for text in PROMPTS for k in range(3)}
    assert len({tuple(ids) for ids in found.values()}) > 6  # they differ
    assert said(engine.sample(requests(chat))) == found
    # Alone, in another order, in smaller batches: the same answers.
    assert said(engine.sample(requests(chat)[::-1])) == found
    assert said(sampler("hf", random_model, chat, batch_tokens=1).sample(requests(chat))) == found


def test_hf_greedy_equals_one_token_at_a_time(random_model, chat):
    engine = sampler("hf", random_model, chat, temperature=0.0)
    for request in requests(chat):
        found = answers(engine.sample(requests(chat)))[request.prompt_id, 0]
        by_hand = greedy_by_hand(random_model, request.prompt_ids, chat.stop_ids, 12)
        assert found.response_ids == by_hand


@pytest.mark.parametrize("name", some_fast([name for name in FAMILIES if name != "mamba"]))
def test_hf_tells_the_log_probs_of_the_model_itself(families, name):
    """Prompts of several lengths in one batch, in every family; windows and caps are met."""
    prompts = [[int(i) for i in np.random.default_rng(n).integers(3, VOCABULARY, n)] for n in (3, 9, 14)]
    asked = [Request(str(n), prompt, 1000 * n) for n, prompt in enumerate(prompts)]
    options = Generate(samples=4, max_new_tokens=20, temperature=1.0)
    found = list(load_sampler("hf")(families(name), [*range(2, 20)], options, "float32").sample(asked))
    expected = one_by_one(families(name), [(prompts[int(s.prompt_id)], s.response_ids) for s in found])
    assert len({len(s.response_ids) for s in found}) > 1  # rows left the batch
    for sampled, logps in zip(found, expected, strict=True):
        np.testing.assert_allclose(sampled.logps, logps, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_hf_samples_as_by_itself_beyond_a_models_original_length(families):
    """Beyond 40 tokens all positions are others. Prompts of 8, 20 and 50 tokens get there one by one."""
    import torch
    from transformers import AutoModelForCausalLM

    prompts = [[int(i) for i in np.random.default_rng(n).integers(3, VOCABULARY, n)] for n in (8, 20, 50)]
    asked = [Request(str(n), prompt, 1000 * n) for n, prompt in enumerate(prompts)]
    options = Generate(samples=2, max_new_tokens=36, temperature=1.0)
    found = list(load_sampler("hf")(families("phi3-long"), [2, 3, 4], options, "float32").sample(asked))
    model = AutoModelForCausalLM.from_pretrained(families("phi3-long")).eval()
    assert max(len(s.response_ids) for s in found if s.prompt_id == "0") > 34
    for s in found:
        ids, first = prompts[int(s.prompt_id)] + s.response_ids, len(prompts[int(s.prompt_id)])
        with torch.no_grad():
            logits = [model(torch.tensor([ids[:at]])).logits[0, -1] for at in range(first, len(ids))]
        expected = torch.stack(logits).log_softmax(-1).gather(1, torch.tensor(s.response_ids)[:, None])[:, 0]
        np.testing.assert_allclose(s.logps, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_hf_finds_the_limit_of_a_model_of_several_parts(tmp_path):
    from model_families import SHAPE
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**SHAPE, "head_dim": 8, "max_position_embeddings": 64}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 8}
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=298
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path)
    assert load_sampler("hf")(str(tmp_path), [2], Generate(), "float32").max_model_len == 64


def test_hf_stops_at_stop_tokens_and_flags_cut_off_answers(random_model, chat):
    """Every token of the vocabulary's first half is made a stop token: most answers are short."""
    engine = load_sampler("hf")(
        str(random_model), list(range(256)), Generate(samples=8, max_new_tokens=3, temperature=1.0), "float32"
    )
    for s in engine.sample(requests(chat)):
        ended = [i for i in s.response_ids if i < 256]
        if s.finish_reason == "stop":
            assert ended == s.response_ids[-1:]
        else:
            assert s.finish_reason == "length" and len(s.response_ids) == 3 and not ended


def test_hf_never_goes_beyond_the_models_limit(random_model, chat):
    longest = max(len(request.prompt_ids) for request in requests(chat))
    engine = sampler("hf", random_model, chat, max_model_len=longest + 2)
    assert engine.max_model_len == longest + 2
    for s in engine.sample(requests(chat)):
        prompt = next(r for r in requests(chat) if r.prompt_id == s.prompt_id)
        assert len(prompt.prompt_ids) + len(s.response_ids) <= longest + 2


@pytest.mark.slow
def test_hf_samples_from_an_adapter_what_its_merged_model_samples(random_model, chat, tmp_path):
    from adapters import make_adapter
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapter = make_adapter(random_model, tmp_path / "adapter", 1)
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(random_model), adapter)
    whole.merge_and_unload().save_pretrained(tmp_path / "merged")
    of_adapter, of_merged, of_base = (
        said(sampler("hf", model, chat).sample(requests(chat)))
        for model in (adapter, tmp_path / "merged", random_model)
    )
    assert of_adapter == of_merged != of_base


def test_end_tokens_are_those_of_the_generation_config(random_model, tmp_path):
    """Of the model's own, else of its config; an adapter's own, else its base's."""
    from dice.models.loading import end_ids

    assert end_ids(str(random_model)) == [1]
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(random_model, base)
    (base / "generation_config.json").write_text('{"eos_token_id": [7, 5], "temperature": 0.1}')
    assert end_ids(str(base)) == [5, 7]
    (base / "generation_config.json").unlink()
    assert end_ids(str(base)) == [1]  # of config.json
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert end_ids(str(adapter)) == [1]
    (adapter / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert end_ids(str(adapter)) == [9]
    for content, reason in (('{"eos_token_id": ["x"]}', "not numbers"), ("\xff", "can't be read")):
        (adapter / "generation_config.json").write_bytes(content.encode("latin-1"))
        with pytest.raises(BadInput, match=reason):
            end_ids(str(adapter))


def test_choose_inverts_the_cumulative_distribution():
    import torch

    from dice.inference.hf import choose

    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(6, 3)
    draws = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81, 0.999], dtype=torch.float64)
    assert choose(logits, draws, 1.0, 1.0).tolist() == [0, 0, 1, 1, 2, 2]
    # top_p 0.6 keeps the first two, with 5/8 and 3/8.
    assert choose(logits, draws, 1.0, 0.6).tolist() == [0, 0, 0, 1, 1, 1]
    # top_p 0.4 is reached by the first alone.
    assert choose(logits, draws, 1.0, 0.4).tolist() == [0] * 6
    # Temperature 0.5 squares: 0.25, 0.09, 0.04 of 0.38, that is 0.66, 0.24, 0.11.
    assert choose(logits, draws, 0.5, 1.0).tolist() == [0, 0, 0, 1, 1, 2]
    for cold in (0.0, 1e-40, 1e-38, 1e-30):  # a float32 ends at about 3e38
        assert choose(logits, draws, cold, 1.0).tolist() == [0] * 6


def test_draws_depend_on_the_seed_alone():
    from dice.inference.hf import uniform_draws

    draws = uniform_draws([5, 6, 5], 4)
    assert (draws[0] == draws[2]).all() and (draws[0] != draws[1]).any()
    assert np.array_equal(uniform_draws([6], 2)[0], draws[1, :2])


@pytest.mark.parametrize(("installed", "gpus", "engine"), [(1, 1, "vllm"), (1, 0, "hf"), (0, 1, "hf")])
def test_auto_is_vllm_where_it_is_installed_and_there_is_a_gpu(monkeypatch, installed, gpus, engine):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    assert (resolve_engine("auto"), resolve_engine("hf"), resolve_engine("vllm")) == (engine, "hf", "vllm")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm(random_model, chat, tmp_path):
    """Real sampling: K seeded answers each, reproducible, stop tokens, cut-offs; greedy equals hf."""
    from commands import run_python

    script = """
import json, sys
from float64 import one_by_one
from model_families import FAMILIES, VOCABULARY, some_fast
from sampling import requests, sampler
from dice.models.chat_template import load_chat
model = sys.argv[1]
chat = load_chat(model, "llama3-custom")
engine = sampler("vllm", model, chat, max_model_len=256)
def listed(sampled):
    return [[s.prompt_id, s.sample, s.response_ids, s.finish_reason] for s in sampled]
found = {"first": listed(engine.sample(requests(chat))), "again": listed(engine.sample(requests(chat)[::-1]))}
engine.options.temperature, engine.options.samples = 0.0, 1
found["greedy"] = listed(engine.sample(requests(chat)))
engine.options.temperature, engine.options.samples = 1.0, 3
engine.stop_ids = list(range(256))
found["stopped"] = listed(engine.sample(requests(chat)))
found["limit"] = engine.max_model_len
json.dump(found, open(sys.argv[2], "w"))
"""
    result = run_python(script, str(random_model), str(tmp_path / "found.json"))
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["limit"] == 256
    assert [row[:2] for row in found["first"]] == [[text, k] for text in PROMPTS for k in range(3)]
    assert sorted(found["again"]) == sorted(found["first"])
    assert len({tuple(row[2]) for row in found["first"]}) > 6
    assert {row[3] for row in found["first"]} <= {"stop", "length"}
    hf = answers(sampler("hf", random_model, chat, temperature=0.0).sample(requests(chat)))
    for prompt, k, ids, reason in found["greedy"]:
        assert (ids, reason) == (hf[prompt, k].response_ids, hf[prompt, k].finish_reason)
    for _, _, ids, reason in found["stopped"]:
        ended = [i for i in ids if i < 256]
        assert ended == (ids[-1:] if reason == "stop" else [])
