"""The loop for real, on a random model: transformers samples and scores, LLaMA-Factory trains."""

import json
import shutil
from pathlib import Path

import fake_world
import pytest
from commands import run_script

from dice.models import chat_template, trainer
from dice.run import files
from dice.run.rows import Response, Score
from dice.run.run import Run, open_run
from dice.stages.train import round_config

pytestmark = pytest.mark.slow
ZERO3 = "llama-factory/examples/deepspeed/zero3.json"


@pytest.fixture(scope="module")
def settings(tmp_path_factory, random_model, other_random_model):
    """iter.sh's arguments for one small round."""
    folder = tmp_path_factory.mktemp("real")
    return [
        *fake_world.make_settings(fake_world.make_data(folder / "data"), folder / "results"),
        f"policy={random_model}",
        f"reference={other_random_model}",
        "generate.engine=hf",
        "generate.samples=16",
        "generate.shard_size=4",
        "generate.max_new_tokens=64",
        "pair.min_samples=2",
        "rounds=1",
        "train.global_batch_size=4",
        "train.num_train_epochs=2",
        "train.learning_rate=1e-3",
        "train.logging_steps=1",
    ]


@pytest.fixture(scope="module")
def run(settings) -> Run:
    result = run_script("bash", "scripts/run_dice/iter.sh", "tiny", *settings)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "win rate against DPO" in result.stdout
    folder = next(s for s in settings if s.startswith("results_dir=")).partition("=")[2]
    return open_run(Path(folder) / "tiny")


def test_every_stage_did_its_work(run):
    folder = run.round_dir(1)
    responses = [r for p in files.shards(folder / "responses") for r in files.read_rows(p, Response)]
    assert len(responses) == 160 and len({r.seed for r in responses}) == 160
    scores = [s for p in files.shards(folder / "scores") for s in files.read_rows(p, Score)]
    finished = {(r.prompt_id, r.sample) for r in responses if r.finish_reason == "stop" and r.n_chars >= 4}
    assert {(s.prompt_id, s.sample) for s in scores} == finished
    manifest = json.loads((folder / "score.manifest.json").read_text())
    assert manifest["dtype"] == "float32"
    assert manifest["dropped"]["cut off at the length limit"] == sum(
        r.finish_reason == "length" for r in responses
    )
    assert sum(manifest["dropped"].values()) + len(scores) == 160


def test_rewards_are_the_difference_of_two_plain_forward_passes(run):
    from float64 import one_by_one

    folder = run.round_dir(1)
    encode = chat_template.load_chat(run.policy(1), "llama3-custom").encode
    prompts = {p["prompt_id"]: p["messages"] for p in map(json.loads, (folder / "prompts.jsonl").open())}
    part = files.shards(folder / "responses")[0]
    responses = {(r.prompt_id, r.sample): r for r in files.read_rows(part, Response)}
    for score in list(files.read_rows(folder / "scores" / part.name, Score))[:5]:
        response = responses[score.prompt_id, score.sample]
        rows = encode(prompts[score.prompt_id], response.response, response.response_ids)
        policy, reference = (sum(one_by_one(model, [rows])[0]) for model in (run.policy(1), run.reference(1)))
        assert score.logp_policy == pytest.approx(policy, rel=1e-5)
        assert score.reward == pytest.approx(policy - reference, abs=1e-3)
        assert score.n_tokens == len(rows[1])


def test_training_moved_the_model_away_from_its_reference(run):
    """The first step starts at the reference: loss log 2. Later the margin grows."""
    curves = [json.loads(line) for line in (run.round_dir(1) / "curves.jsonl").open()]
    assert curves[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert curves[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert curves[-1]["loss"] < 0.69
    names = {path.name for path in (run.round_dir(1) / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names
    assert not (run.round_dir(1) / "train").exists()


def test_a_kill_in_training_changes_nothing(run, tmp_path):
    """What a killed training run leaves behind is thrown away; the model comes out the same."""
    copy = tmp_path / "tiny"
    shutil.copytree(run.path, copy)
    folder = copy / "round-1"
    manifest = json.loads((folder / "train.manifest.json").read_text())
    assert manifest["dtype"] == "float32" and manifest["tokens_per_second"] > 0
    before = {p.name: p.read_bytes() for p in (folder / "model").iterdir()}
    files.write_json(folder / "train.started.json", {key: manifest[key] for key in ("inputs", "recipe")})
    (folder / "train.manifest.json").unlink()
    (folder / "model").rename(folder / "train")  # killed before the model was complete
    result = run_script("bash", "-c", f"$DICE_PYTHON -m dice train {copy} 1")
    assert result.returncode == 0, result.stderr
    assert {p.name: p.read_bytes() for p in (folder / "model").iterdir()} == before


def test_deepspeed_zero3_on_two_processes_equals_one_process(run, tmp_path, monkeypatch):
    """Two steps of the same global batch of 4: as 4 on one process, and as 2 on each of two.

    Plain gradient descent, because Adam's first steps turn rounding errors into whole steps.
    """
    from safetensors.torch import load_file

    def weights(name, **env):
        for key, value in env.items():
            monkeypatch.setenv(key, value)
        run.recipe.train.args |= {"deepspeed": ZERO3, "optim": "sgd", "learning_rate": 0.5, "max_steps": 2}
        config = round_config(run, 1) | {"output_dir": str(tmp_path / name)}
        trained = trainer.train(config, tmp_path / f"{name}.log", name)
        assert trained.train_rows >= 8
        log = (tmp_path / f"{name}.log").read_text()
        return config, log, load_file(tmp_path / name / "model.safetensors")

    config, _, expected = weights("one")
    assert (config["per_device_train_batch_size"], config["deepspeed"]) == (4, None)
    config, log, found = weights("two", NPROC_PER_NODE="2", DS_ACCELERATOR="cpu")
    assert config["per_device_train_batch_size"] == 2 and config["deepspeed"].endswith(ZERO3)
    assert "world size: 2" in log and "Detected DeepSpeed ZeRO-3" in log

    start = load_file(Path(run.policy(1)) / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        moved, apart = (tensor - start[name]).abs().max(), (tensor - found[name]).abs().max()
        assert apart <= 1e-3 * moved + 1e-7, name
    assert max(float((tensor - start[name]).abs().max()) for name, tensor in expected.items()) > 1e-4


def test_a_template_that_does_not_fit_is_one_line_and_status_2(settings, tmp_path):
    """Found in a worker, where the tokenizer is loaded; and an unknown template, before anything."""
    changes = [*settings, f"results_dir={tmp_path}", "template=chatml"]
    result = run_script("bash", "scripts/run_dice/iter.sh", "tiny", *changes)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "template 'chatml' needs the tokens <|im_end|>, <|im_start|>" in line
    result = run_script("bash", "scripts/run_dice/iter.sh", "tiny", *changes, "template=nope")
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "template: unknown template 'nope'; there are: " in result.stderr
