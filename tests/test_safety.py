"""What docs/safety.md promises of what is read: no foreign code, no pickles, no way out of folders."""

import json
import pickle
import shutil
import subprocess
import sys

import pytest
from bomb import Bomb
from data_sets import write
from msgspec import structs

from dice.data import dataset_info
from dice.data.prompts_and_preferences import read_prompts
from dice.errors import BadInput
from dice.launch.processes import environment
from dice.models import remote_code
from dice.models.checkpoint import check_model, only_pickles
from dice.recipe.load import load_recipe
from dice.recipe.paths import ROOT
from dice.run import files, manifests, stage
from dice.stages.train import round_config

TOKEN = "hf_ThisIsASecretOfTheEnvironment"
CODE = """
import pathlib
from transformers import LlamaConfig, LlamaForCausalLM
pathlib.Path({marker!r}).write_text("ran")
class Config(LlamaConfig):
    model_type = "own-llama"
class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture(autouse=True)
def no_trust(monkeypatch):
    """Whatever a test allows, the next one may not."""
    monkeypatch.setattr(remote_code, "_allowed", False)
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")


# ---- code of models


@pytest.fixture
def own_code(random_model, tmp_path):
    """A model that needs its own code, which leaves a file behind when it runs."""
    folder, marker = shutil.copytree(random_model, tmp_path / "own"), tmp_path / "ran"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own-llama", "architectures": ["Model"]}
    config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder, marker


def test_code_of_a_model_is_refused_and_never_run(own_code):
    from dice.models.loading import Options, load_model

    folder, marker = own_code
    with pytest.raises(BadInput, match="needs its own code .* only with trust_remote_code=true"):
        check_model("policy", str(folder))
    with pytest.raises(BadInput, match="can't be loaded as a causal LM"):
        load_model(str(folder), Options("float32"))
    assert not marker.exists()


@pytest.mark.slow
def test_code_of_a_model_is_run_where_the_recipe_says_so(own_code, monkeypatch, tmp_path):
    from dice.models.loading import Options, load_model

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, marker = own_code
    remote_code.allow(True)
    check_model("policy", str(folder))
    assert type(load_model(str(folder), Options("float32"))).__name__ == "Model"
    assert marker.read_text() == "ran"


def test_trust_is_the_recipes_alone_and_said(fake_settings, fake_run, capsys):
    from dice.stages.prepare import start

    assert load_recipe("tiny", fake_settings).trust_remote_code is False
    for key in ("train.trust_remote_code=true", "generate.engine_args.trust_remote_code=true"):
        with pytest.raises(BadInput, match="trust_remote_code follows from the re"):
            load_recipe("tiny", [*fake_settings, key])
    start("tiny", fake_settings)
    assert "is run" not in capsys.readouterr().out and not remote_code.is_allowed()
    run = start("tiny", [*fake_settings, "trust_remote_code=true"])
    assert "code of fake-dpo and fake-sft is run (trust_remote_code)" in capsys.readouterr().out
    assert remote_code.is_allowed() and round_config(run, 1)["trust_remote_code"] is True
    assert round_config(fake_run, 1)["trust_remote_code"] is False


# ---- pickles


def test_weights_that_are_pickles_are_refused(random_model, tmp_path):
    folder = shutil.copytree(random_model, tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    (folder / "other.safetensors").write_bytes(b"which nobody reads")
    assert check_model("policy", str(folder)) == folder  # beside safetensors they are not looked at
    (folder / "model.safetensors").unlink()
    assert only_pickles(str(folder)) == "pytorch_model.bin"
    with pytest.raises(
        BadInput, match=r"its weights as pickles only \(pytorch_model.bin\).* save_pretrained"
    ):
        check_model("policy", str(folder))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(random_model)}))
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(BadInput, match=r"pickles only \(adapter_model.bin\)"):
        check_model("policy", str(adapter))
    assert not (tmp_path / "boom").exists()


@pytest.mark.slow
def test_loaders_read_no_pickle_either(random_model, tmp_path):
    from dice.models.loading import Options, load_model

    folder = shutil.copytree(random_model, tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(BadInput, match="can't be loaded as a causal LM"):
        load_model(str(folder), Options("float32"))
    assert not (tmp_path / "boom").exists()


@pytest.mark.slow
@pytest.mark.parametrize("key", ["model_name_or_path", "adapter_name_or_path", "ref_model"])
def test_training_reads_no_pickle_either(tmp_path, key):
    import train

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    with pytest.raises(BadInput, match=f"{key}: .* pickles only"):
        train.run({key: str(tmp_path)})
    assert not (tmp_path / "boom").exists()


@pytest.mark.slow
def test_what_is_started_unpickles_nothing_but_tensors(tmp_path):
    """Workers and training: torch.load itself refuses, though its caller says weights_only=False."""
    bomb = tmp_path / "optimizer.pt"
    bomb.write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    read = "import sys, torch; torch.load(sys.argv[1], weights_only=False)"
    done = subprocess.run(
        [sys.executable, "-c", read, bomb], env=environment(), capture_output=True, text=True
    )
    assert "weights_only" in done.stderr.lower() and not (tmp_path / "boom").exists()


def test_vllm_is_told_to_read_safetensors_only(fake_settings):
    with pytest.raises(BadInput, match="load_format must read no pickles, as safetensors"):
        load_recipe("tiny", [*fake_settings, "generate.engine_args.load_format=pt"])
    load_recipe("tiny", [*fake_settings, "generate.engine_args.load_format=fastsafetensors"])


# ---- folders


@pytest.mark.parametrize("name", ["../rows.json", "{tmp}/rows.json", "link.json", "link/rows.json", "folder"])
def test_data_outside_of_the_data_folder_is_refused(tmp_path, name, monkeypatch):
    (tmp_path / "rows.json").write_text('[{"instruction": "one"}]')
    data = tmp_path / "data"
    (data / "folder").mkdir(parents=True)
    (data / "link.json").symlink_to("../rows.json")
    (data / "folder" / "part.json").symlink_to(tmp_path / "rows.json")
    (data / "link").symlink_to("..")
    folder = write(data, "[]", {"file_name": name.format(tmp=tmp_path)})
    with pytest.raises(
        BadInput, match=f"dataset_info.json: it: .*lies outside of .*DICE_DATA_DIRS={tmp_path}"
    ):
        read_prompts(folder, "it")
    monkeypatch.setenv("DICE_DATA_DIRS", f"/nowhere:{tmp_path}")
    assert len(read_prompts(folder, "it")[0]) == 1


def test_a_link_that_stays_inside_and_a_rounds_data_are_fine(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.json").write_text('[{"instruction": "one"}]')
    (tmp_path / "data" / "link.json").symlink_to("rows.json")
    assert read_prompts(write(tmp_path / "data", "[]", {"file_name": "link.json"}, "other.json"), "it")
    made = tmp_path / "run" / "round-1" / "dataset" / "mixed.json"
    made.parent.mkdir(parents=True)
    made.write_text('[{"instruction": "one"}]')
    entry = {"file_name": "../run/round-1/dataset/mixed.json"}
    folder = write(tmp_path / "data", "[]", entry)
    with pytest.raises(BadInput, match="lies outside of"):
        read_prompts(folder, "it")
    (tmp_path / "run" / "recipe.yaml").write_text("")
    assert read_prompts(folder, "it")


@pytest.mark.parametrize(
    "name", ["link", "folder/*", "{tmp}/outside/train.jsonl", "../../outside/train.jsonl", "../../outside/**"]
)
def test_a_local_copy_of_a_hub_set_names_its_own_files(tmp_path, name, monkeypatch):
    """By links or in its card; where the place is allowed, a set's digest knows what is read."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    copy, outside = tmp_path / "data" / "copy", tmp_path / "outside" / "train.jsonl"
    copy.mkdir(parents=True)
    outside.parent.mkdir()
    outside.write_text('{"instruction": "one"}\n')
    if name == "link":
        (copy / "train.jsonl").symlink_to(outside)
    else:
        (copy / "folder").symlink_to(outside.parent)
        configs = [{"config_name": "default", "data_files": name.format(tmp=tmp_path)}]
        (copy / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    folder = write(tmp_path / "data", "[]", {"hf_hub_url": str(copy)})
    for use in (read_prompts, dataset_info.digest):
        with pytest.raises(BadInput, match="lies outside of .*DICE_DATA_DIRS="):
            use(folder, "it")
    monkeypatch.setenv("DICE_DATA_DIRS", str(outside.parent))
    before = dataset_info.digest(folder, "it")
    assert len(read_prompts(folder, "it")[0]) == 1
    outside.write_text('{"instruction": "another"}\n')
    assert dataset_info.digest(folder, "it") != before


def test_a_sets_folder_on_the_hub_stays_inside(tmp_path):
    for folder in ("../other", "/etc"):
        entries = {"it": {"hf_hub_url": "some/set", "folder": folder}}
        (tmp_path / "dataset_info.json").write_text(json.dumps(entries))
        with pytest.raises(BadInput, match="folder is .*; it must lie inside the set"):
            dataset_info.find_entry(str(tmp_path), "it")


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "sub/x.safetensors"])
def test_a_models_index_names_files_of_its_folder(random_model, tmp_path, name):
    folder = shutil.copytree(random_model, tmp_path / "model")
    index = {"weight_map": {"a": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(BadInput, match="weight_map names .*; it must be a file of the same folder"):
        check_model("policy", str(folder))


def test_a_manifest_can_not_have_files_elsewhere_removed(fake_run, tmp_path):
    (tmp_path / "precious").write_text("stays")
    made = stage.Stage("demo", lambda *_: {}, lambda *_: {}, (), lambda *_: stage.Outcome(1, 1, "one row"))
    manifest = stage.execute(made, fake_run, 1)
    path = fake_run.round_dir(1) / "demo.manifest.json"
    for name in (str(tmp_path / "precious"), "../../../precious"):
        manifests.write(path, structs.replace(manifest, outputs={name: "0"}))
        with pytest.raises(BadInput, match="among its outputs lies outside of the stage's folder"):
            stage.execute(made, fake_run, 1)
    assert (tmp_path / "precious").read_text() == "stays"


def test_removing_a_link_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    files.remove(tmp_path / "link")
    assert (tmp_path / "kept").is_dir() and not (tmp_path / "link").is_symlink()


def test_the_documentation_names_tests_that_exist():
    text = (ROOT / "docs" / "safety.md").read_text(encoding="utf-8")
    names = {word.strip("`") for word in text.split() if word.startswith("`test_")}
    all_of_them = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) > 10 and not [name for name in names if f"def {name}(" not in all_of_them]
