"""Adapters on a shared base, and what can't be loaded."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from adapters import make_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from dice.errors import BadInput
from dice.inference.scorer import Scorer
from dice.models import loading
from dice.models.chat_template import load_chat
from dice.models.checkpoint import base_of, check_model
from dice.models.loading import Options
from dice.run.digests import model_digest
from dice.tools.export_model import export_checkpoint


@pytest.fixture(scope="module")
def adapters(random_model, tmp_path_factory):
    """Two adapters on the random model."""
    folder = tmp_path_factory.mktemp("adapters")
    return [make_adapter(random_model, folder / f"round.{seed}", seed) for seed in (1, 2)]


@pytest.fixture
def loads(monkeypatch):
    """The models that were loaded, in order."""
    names = []
    load = loading.load_model
    monkeypatch.setattr(loading, "load_model", lambda name, *rest: names.append(name) or load(name, *rest))
    return names


def some_rows():
    rng = np.random.default_rng(0)
    return [
        (rng.integers(5, 500, p).tolist(), rng.integers(5, 500, r).tolist()) for p, r in [(9, 20), (4, 7)]
    ]


def sums(scorer, name):
    scorer.use(name)
    return [float(logps.sum(dtype=float)) for logps in scorer.token_logps(some_rows())]


@pytest.mark.slow
def test_adapters_equal_merged_models_and_the_base_is_loaded_once(random_model, adapters, loads, tmp_path):
    expected = []
    for number, adapter in enumerate(adapters):
        whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(random_model), adapter)
        whole.merge_and_unload().save_pretrained(tmp_path / str(number))
        expected.append(sums(Scorer(Options(dtype="float32")), str(tmp_path / str(number))))
    expected.append(sums(Scorer(Options(dtype="float32")), str(random_model)))
    assert abs(expected[0][0] - expected[1][0]) > 0.1  # the adapters matter
    loads.clear()

    scorer = Scorer(Options(dtype="float32"))
    for _ in range(2):  # back and forth
        for name, wanted in zip([*adapters, str(random_model)], expected, strict=True):
            np.testing.assert_allclose(sums(scorer, name), wanted, rtol=1e-5)
    assert loads == [str(random_model)]


@pytest.mark.slow
def test_cudnn_has_no_part_in_attention(random_model):
    """Behind a mask its gradients can be NaN on H100 (pytorch issue 196678)."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    loading.load_model(str(random_model), Options(dtype="float32"))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_whole_models_replace_each_other(random_model, other_random_model, loads):
    scorer = Scorer(Options(dtype="float32"))
    first, second = sums(scorer, str(random_model)), sums(scorer, str(other_random_model))
    assert first != second
    assert sums(scorer, str(random_model)) == first
    assert loads == [str(random_model), str(other_random_model), str(random_model)]


@pytest.mark.slow
def test_an_adapter_that_changes_its_base_does_not_share_it(random_model, loads, tmp_path):
    adapter = make_adapter(random_model, tmp_path / "pissa", 1, init_lora_weights="pissa")
    expected = sums(Scorer(Options(dtype="float32")), str(random_model))
    scorer = Scorer(Options(dtype="float32"))
    loads.clear()
    sums(scorer, adapter)
    sums(scorer, adapter)
    np.testing.assert_allclose(sums(scorer, str(random_model)), expected, rtol=1e-6)
    assert loads == [str(random_model)] * 2


@pytest.mark.slow
def test_names_that_look_alike_are_two_adapters(random_model, tmp_path):
    scorer = Scorer(Options(dtype="float32"))
    first = sums(scorer, make_adapter(random_model, tmp_path / "dpo.1", 1))
    assert sums(scorer, make_adapter(random_model, tmp_path / "dpo_1", 2)) != first


def test_an_adapter_on_an_adapter_is_refused(adapters, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": adapters[0]}))
    with pytest.raises(BadInput, match="is an adapter itself; merge that one into a whole model"):
        base_of(str(tmp_path))


@pytest.mark.parametrize("what", ["a model", "an adapter", "a second adapter"])
def test_weights_that_are_missing_are_not_made_up(random_model, adapters, tmp_path, what):
    source = Path(random_model if what == "a model" else adapters[0])
    folder = shutil.copytree(source, tmp_path / "incomplete")
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    del weights[sorted(name for name in weights if "q_proj" in name)[0]]
    save_file(weights, file, metadata={"format": "pt"})
    scorer = Scorer(Options(dtype="float32"))
    if what == "a second adapter":
        scorer.use(adapters[1])
    with pytest.raises(BadInput, match=r"(weights lack|missing adapter keys).*q_proj"):
        scorer.use(str(folder))


def test_weights_of_another_shape_are_named(random_model, tmp_path):
    """Libraries say it on several lines, and the first one says nothing."""
    folder = shutil.copytree(random_model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 520}))
    wanted = r"its model.embed_tokens.weight is \(512, 96\) in its weights, \(520, 96\) by its config.json$"
    with pytest.raises(BadInput, match=wanted):
        loading.load_model(str(folder), Options(dtype="float32"))

    adapter = Path(make_adapter(random_model, tmp_path / "adapter", 1, modules_to_save=["embed_tokens"]))
    weights = load_file(adapter / "adapter_model.safetensors")
    (name,) = (name for name in weights if "embed_tokens" in name)
    weights[name] = torch.zeros(520, 96)
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    shapes = r"size mismatch for \S*embed_tokens\S*: .*\[520, 96\]\) from checkpoint, .*\[512, 96\]\)"
    with pytest.raises(BadInput, match=shapes):
        Scorer(Options(dtype="float32")).use(str(adapter))
    with pytest.raises(BadInput, match=f"can't be merged into its base .*: {shapes}"):
        export_checkpoint(str(adapter), str(tmp_path / "merged"), None)


def test_an_adapter_is_a_model_like_any_other(random_model, adapters):
    assert base_of(adapters[0]) == str(random_model)
    assert base_of(str(random_model)) is None
    check_model("policy", adapters[0])
    assert load_chat(adapters[0], "llama3-custom").decode([70]) == load_chat(
        str(random_model), "llama3-custom"
    ).decode([70])


def test_an_adapter_is_identified_by_its_base_too(random_model, adapters, tmp_path):
    base = shutil.copytree(random_model, tmp_path / "base")
    adapter = shutil.copytree(adapters[0], tmp_path / "adapter")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = model_digest(str(adapter))
    (base / "config.json").write_text("{}")
    assert model_digest(str(adapter)) != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            r"no weights \(adapter_model.safetensors\)",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"half"), "broken adapter_model"),
        (
            lambda folder: (folder / "adapter_config.json").write_text("{}"),
            "base_model_name_or_path is missing",
        ),
        (
            lambda folder: (folder / "adapter_config.json").write_text(
                '{"base_model_name_or_path": "nowhere"}'
            ),
            "base of the adapter .*: 'nowhere' is neither a folder here nor a model of the Hub",
        ),
    ],
)
def test_a_broken_adapter_is_named(random_model, tmp_path, change, message):
    make_adapter(random_model, tmp_path / "adapter", 1)
    change(tmp_path / "adapter")
    with pytest.raises(BadInput, match=message):
        check_model("policy", str(tmp_path / "adapter"))


def test_quantization_without_its_library_is_said(random_model):
    if importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed here")
    with pytest.raises(BadInput, match="can't be loaded as a causal LM: .*bitsandbytes"):
        loading.load_model(str(random_model), Options("float32", quantization_bit=4))


@pytest.mark.parametrize("bits", [8, 4])
def test_quantized_models_are_close_to_whole_ones(tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed; it is an option")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    expected = sums(Scorer(Options(dtype="float32")), str(tmp_path))
    scorer = Scorer(Options(dtype="float32", quantization_bit=bits))
    np.testing.assert_allclose(sums(scorer, str(tmp_path)), expected, rtol=0.05)
    kinds = {type(module).__name__ for module in scorer.models.use(str(tmp_path)).modules()}
    assert f"Linear{bits}bit{'Lt' if bits == 8 else ''}" in kinds
