"""Two rounds of adapters in the real loop: their reference, a kill, and the model that comes out."""

import json
import shutil
from pathlib import Path

import fake_world
import numpy as np
import pytest
from commands import run_dice, run_script
from safetensors.torch import load_file
from trainings import kill_at_a_checkpoint

from dice.inference.scorer import Options, Scorer
from dice.models import reference_table
from dice.models.chat_template import load_chat
from dice.models.checkpoint import base_of
from dice.models.reference_table import response_hash
from dice.recipe.load import resolved_yaml
from dice.run import files
from dice.run.rows import Pair
from dice.run.run import Run, open_run
from dice.stages import pair, train
from dice.stages.train import round_config

pytestmark = pytest.mark.slow
REAL = (  # a small round of the real loop
    "generate.engine=hf",
    "generate.samples=16",
    "generate.shard_size=4",
    "generate.max_new_tokens=64",
    "pair.min_samples=2",
    "train.global_batch_size=4",
    "train.num_train_epochs=2",
    "train.logging_steps=1",
)


@pytest.fixture(scope="module")
def lora_run(random_model, other_random_model, tmp_path_factory):
    """Two rounds of adapters in the real loop, from a whole model."""
    folder = tmp_path_factory.mktemp("lora")
    settings = [
        *fake_world.make_settings(fake_world.make_data(folder / "data"), folder / "results"),
        *REAL,
        f"policy={random_model}",
        f"reference={other_random_model}",
        "train.finetuning_type=lora",
        "train.lora_target=all",
        "train.learning_rate=1e-2",
        "rounds=2",
    ]
    result = run_script("bash", "scripts/run_dice/iter.sh", "tiny", *settings)
    assert result.returncode == 0, result.stdout + result.stderr
    return open_run(folder / "results" / "tiny")


def logps_of(run, t, model):
    """The log-probs of round t's pairs under a model, in the order of `reference.from_scores`."""
    chat = load_chat(run.policy(t), "llama3-custom")
    scorer = Scorer(Options("float32", "auto", None, "auto"))
    scorer.use(model)
    rows = [
        chat.encode(pair.messages, text, ids)
        for pair in files.read_rows(run.round_dir(t) / "pairs.jsonl", Pair)
        for text, ids in ((pair.chosen, pair.chosen_ids), (pair.rejected, pair.rejected_ids))
    ]
    sums = [float(logps.sum()) for logps in scorer.token_logps(rows)]
    return dict(zip((response_hash(*row) for row in rows), sums, strict=True))


def test_the_reference_of_a_second_lora_round_is_the_adapter_of_the_first(lora_run, random_model):
    folder = lora_run.round_dir(2)
    first, second = (lora_run.model(t) for t in (1, 2))
    for model in (first, second):
        assert base_of(model) == str(random_model)
        assert not list(Path(model).glob("model*.safetensors"))  # an adapter, not a whole model

    table = reference_table.from_scores(folder / "pairs.jsonl", files.shards(folder / "scores"))
    of_adapter, of_base = logps_of(lora_run, 2, first), logps_of(lora_run, 2, str(random_model))
    assert table == pytest.approx(of_adapter, rel=1e-5)
    assert max(abs(table[row] - of_base[row]) for row in table) > 0.1  # the adapter matters

    trained, paired = train.STAGE.manifest(lora_run, 2), pair.STAGE.manifest(lora_run, 2)
    assert trained.figures["reference_logps"]["known"] == 2 * paired.figures["generated"]
    curves = [json.loads(line) for line in (folder / "curves.jsonl").open()]
    assert curves[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)  # policy and reference are one
    assert min(step["loss"] for step in curves) < curves[0]["loss"] - 0.01  # of single batches
    trained, before = (load_file(Path(model) / "adapter_model.safetensors") for model in (second, first))
    assert max(float((trained[name] - before[name]).abs().max()) for name in trained) > 1e-3  # trained on


def test_upstreams_way_has_the_same_reference_in_a_second_lora_round(lora_run):
    recipe = lora_run.recipe.model_copy(deep=True)
    recipe.train.reference_logps = "model"
    run = Run(lora_run.path, recipe)
    first, second = round_config(run, 1), round_config(run, 2)
    assert "ref_model" not in first and "adapter_name_or_path" not in first  # the adapter is new
    assert second["model_name_or_path"] == second["ref_model"] == first["model_name_or_path"]
    assert second["adapter_name_or_path"] == second["ref_model_adapters"] == run.model(1)


def test_an_exported_adapter_is_a_whole_model_with_a_card(lora_run, random_model, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    result = run_dice("export", str(lora_run.path), "2", f"--output={tmp_path}/model")
    assert result.returncode == 0, result.stderr
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    ours = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(random_model), lora_run.model(2))
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")("what about cats?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.allclose(whole(ids).logits, ours(ids).logits, atol=1e-4)
    card = (tmp_path / "model" / "README.md").read_text()
    for wanted in ("round 2 of DICE", "some\\_prompts", "some\\_pairs, gamma 0.5", "win rate", "rounds: 2"):
        assert wanted in card
    again = run_dice("export", str(lora_run.path), "2", f"--output={tmp_path}/model")
    assert again.returncode == 0  # what export wrote, it may replace
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    kept = run_dice("export", str(lora_run.path), "2", f"--output={tmp_path}/mine")
    assert kept.returncode == 2 and "exists and was not made by export" in kept.stderr
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "mine"
    push = run_dice("export", str(lora_run.path), "2", f"--output={tmp_path}/model", "--push=me/model")
    assert push.returncode == 2 and "no token of the Hub" in push.stderr


def test_a_killed_training_goes_on_from_its_checkpoint(lora_run, tmp_path):
    """The same curves and the same weights, bit by bit, as without the kill."""
    copies = [tmp_path / name for name in ("whole", "killed")]
    longer = lora_run.recipe.train.args | {"num_train_epochs": 40, "save_strategy": "steps", "save_steps": 10}
    recipe = lora_run.recipe.model_copy(deep=True)
    recipe.train.args = longer
    for copy in copies:
        shutil.copytree(lora_run.path, copy)
        files.remove(copy / "round-1" / "train.manifest.json")
        files.remove(copy / "round-1" / "model")
        files.write_text(copy / "recipe.yaml", resolved_yaml(recipe))
    whole, killed = (copy / "round-1" for copy in copies)
    assert run_dice("train", str(copies[0]), "1").returncode == 0

    kill_at_a_checkpoint(copies[1])
    assert not (killed / "model").exists()
    result = run_dice("train", str(copies[1]), "1")
    assert result.returncode == 0, result.stderr
    assert "goes on from step" in result.stdout
    manifests = [files.read_json(folder / "train.manifest.json") for folder in (whole, killed)]
    assert manifests[0]["reference_logps"] == manifests[1]["reference_logps"]
    assert (killed / "curves.jsonl").read_text() == (whole / "curves.jsonl").read_text()
    for path in (whole / "model").iterdir():
        assert (killed / "model" / path.name).read_bytes() == path.read_bytes(), path.name
