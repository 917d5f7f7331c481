"""Head and embedding, one or two: what an export says of them, and folders that say what is not so."""

import json
import shutil

import pytest
import torch
from adapters import make_adapter
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dice.errors import BadInput
from dice.inference.scorer import Scorer
from dice.models.checkpoint import check_model
from dice.models.loading import Options
from dice.tools.export_model import export_checkpoint

IDS = torch.arange(5, 45)[None]
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


def changed(source, folder, part):
    """A copy of a folder in which a matrix of the vocabulary, `part`, is not what it was."""
    shutil.copytree(source, folder)
    (file,) = folder.glob("*model.safetensors")
    weights = load_file(file)
    name = next((name for name in weights if part in name), f"{part}.weight")
    weights[name] = weights.get(name, weights.get(EMBEDDING)) + torch.linspace(-0.1, 0.1, 512)[:, None]
    save_file(weights, file, metadata={"format": "pt"})
    return str(folder)


def exported(adapter, folder):
    """The whole model of an adapter: its weights as they lie in the file, and its config.json."""
    export_checkpoint(str(adapter), str(folder), None)
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("kind", ["a head of its own", "a head with LoRA", "an embedding of its own"])
def test_a_merged_model_says_that_its_head_is_not_its_embedding(random_model, tmp_path, kind):
    base = AutoModelForCausalLM.from_pretrained(random_model)
    assert base.config.tie_word_embeddings and base.lm_head.weight is base.model.embed_tokens.weight
    if kind == "a head with LoRA":
        adapter = make_adapter(random_model, tmp_path / "adapter", 1, target_modules=["q_proj", "lm_head"])
    else:
        part = "lm_head" if "head" in kind else "embed_tokens"
        plain = make_adapter(random_model, tmp_path / "plain", 1, modules_to_save=[part])
        adapter = changed(plain, tmp_path / "adapter", part)
    expected = logits(PeftModel.from_pretrained(base, adapter))
    weights, config = exported(adapter, tmp_path / "merged")
    assert config["tie_word_embeddings"] is False
    found = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    if kind != "an embedding of its own":
        assert torch.equal(weights[EMBEDDING], load_file(random_model / "model.safetensors")[EMBEDDING])
    check_model("policy", str(tmp_path / "merged"))


def test_a_merged_model_whose_head_is_its_embedding_stays_as_it_was(random_model, tmp_path):
    weights, config = exported(make_adapter(random_model, tmp_path / "adapter", 1), tmp_path / "merged")
    assert config["tie_word_embeddings"] is True and HEAD not in weights


def test_a_folder_whose_config_denies_its_head_is_refused(random_model, tmp_path):
    """transformers reads the head, vLLM the embedding."""
    folder = changed(random_model, tmp_path / "model", "lm_head")
    wanted = f"{HEAD} and {EMBEDDING} differ, but its config.json ties them: set tie_word_embeddings to f"
    with pytest.raises(BadInput, match=wanted):
        check_model("policy", folder)
    with pytest.raises(BadInput, match="its head and its embedding differ, but its config.json ties them"):
        Scorer(Options(dtype="float32")).use(folder)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    check_model("policy", folder)
    Scorer(Options(dtype="float32")).use(folder)


def test_a_folder_that_has_the_same_weights_twice_is_fine(random_model, tmp_path):
    shutil.copytree(random_model, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    save_file({**weights, HEAD: weights[EMBEDDING].clone()}, tmp_path / "model" / "model.safetensors")
    check_model("policy", str(tmp_path / "model"))
