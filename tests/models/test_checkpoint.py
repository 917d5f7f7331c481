"""Which folders and names are complete causal LMs, and what is said of those that are not."""

import json
import shutil
import sys

import pytest
from commands import run_script

from dice.errors import BadInput
from dice.models.checkpoint import alters_base, base_of, check_model
from dice.recipe.paths import ROOT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no/such/model", "policy: 'no/such/model' is neither a folder here nor a model of the Hub"),
        ("org/no-such-model", "policy: 'org/no-such-model' is neither a folder here nor a model of the Hub"),
        ("tests", "tests has no config.json; it is not a Hugging Face model folder"),
    ],
)
def test_models_that_are_not_there(name, message):
    with pytest.raises(BadInput) as caught:
        check_model("policy", name)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_both_places_in_which_a_relative_path_is_looked_for_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=f"no such folder in {tmp_path} or in {ROOT}"):
        check_model("policy", "models/none/here")
    with pytest.raises(BadInput, match="neither a folder here nor a model of the Hub .no such folder.$"):
        check_model("policy", "/nowhere/at/all")


def test_models_that_are_incomplete(random_model, tmp_path):
    def refusal(role="policy"):
        with pytest.raises(BadInput) as caught:
            check_model(role, str(folder))
        return str(caught.value)

    folder = shutil.copytree(random_model, tmp_path / "model")
    check_model("policy", str(folder))
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    assert "has a broken model.safetensors" in refusal("reference")
    weights.unlink()
    assert "has no weights" in refusal()
    weights.write_bytes(content)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer" in refusal()
    check_model("reference", str(folder))
    index = {"weight_map": {"a": "part-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks part-1.safetensors, which its index names" in refusal("reference")
    (folder / "config.json").write_text("{")
    assert "has a config.json that is not a model's" in refusal("reference")


def with_config(source, folder, **changes):
    """A copy of a model whose config.json says something else; None takes a key out."""
    shutil.copytree(source, folder)
    config = {**json.loads((folder / "config.json").read_text()), **changes}
    kept = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, "LlamaForSequenceClassification"),
        ({"architectures": ["BertModel"], "model_type": "bert"}, "BertModel"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "T5ForConditionalGeneration"),
        ({"architectures": None, "model_type": "t5"}, "model_type t5"),
    ],
)
def test_a_model_that_is_no_causal_lm(random_model, tmp_path, changes, kind):
    folder = with_config(random_model, tmp_path / "model", **changes)
    with pytest.raises(BadInput, match=f"policy: .* is not a causal LM: its config.json says {kind}"):
        check_model("policy", str(folder))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "brandnew"}, "has the model_type 'brandnew', which is unknown to transformers 5"),
        (
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "own.Own"}},
            "needs its own code .auto_map in its config.json., which is run only with trust_remote_code=true",
        ),
    ],
)
def test_a_model_that_transformers_does_not_have(random_model, tmp_path, changes, reason):
    folder = with_config(random_model, tmp_path / "model", **changes)
    with pytest.raises(BadInput, match=f"policy: .*/model {reason}"):
        check_model("policy", str(folder))


def test_a_causal_lm_by_any_other_name(random_model, tmp_path):
    for number, names in enumerate((["OPTForCausalLM"], ["GPT2LMHeadModel"], None)):
        check_model("policy", str(with_config(random_model, tmp_path / str(number), architectures=names)))


def test_an_adapter_in_the_hubs_cache(tmp_path, monkeypatch):
    """Its configuration is found where that of its base is."""
    cached = tmp_path / "adapter_config.json"
    cached.write_text(json.dumps({"base_model_name_or_path": "some/base", "bias": "all"}))
    monkeypatch.setattr("transformers.utils.find_adapter_config_file", lambda _: str(cached))
    assert base_of("some/adapter") == "some/base" and alters_base("some/adapter")


@pytest.mark.slow
def test_a_model_of_the_hub_that_was_downloaded(random_model, tmp_path):
    """The cache's layout: snapshots by commit, a ref that names the commit. Half a model is none."""
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / "abc"
    shutil.copytree(random_model, snapshot)
    (tmp_path / "hub" / "models--some--model" / "refs").mkdir()
    (tmp_path / "hub" / "models--some--model" / "refs" / "main").write_text("abc")
    look = "from dice.models.checkpoint import check_model; print(check_model('policy', 'some/model'))"
    found = run_script(sys.executable, "-c", look, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert found.stdout.strip() == str(snapshot), found.stderr
    (snapshot / "model.safetensors").unlink()
    found = run_script(sys.executable, "-c", look, HF_HUB_CACHE=str(tmp_path / "hub"))
    assert "neither a folder here nor a model of the Hub (the Hub can't be reached" in found.stderr


@pytest.mark.parametrize(
    "changes", [{"model_type": ["llama"]}, {"architectures": [1]}, {"auto_map": ["own"]}]
)
def test_a_config_with_values_of_other_kinds(random_model, tmp_path, changes):
    folder = with_config(random_model, tmp_path / "model", **changes)
    with pytest.raises(BadInput, match="model_type, architectures or auto_map is not what it should be"):
        check_model("policy", str(folder))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": ["b"]}}', "[" * 5000]
)
def test_an_index_that_is_none(random_model, tmp_path, content):
    folder = shutil.copytree(random_model, tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(BadInput, match="index.json: weight_map must map the names of tensors to"):
        check_model("policy", str(folder))


@pytest.mark.parametrize("content", ["", "[]", '{"base_model_name_or_path": 3}'])
def test_an_adapter_whose_configuration_is_none(tmp_path, content):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(BadInput, match="adapter_config.json: base_model_name_or_path is missing"):
        base_of(str(tmp_path))
