"""The doctor on models: weights, rewards and endings, each made to go wrong."""

import json
import shutil
from functools import partial

import pytest
import torch
from doctored import found
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dice.inference.scorer import Options, Scorer
from dice.launch import devices
from dice.recipe.load import origin
from dice.stages.prepare import load
from dice.tools import doctor
from dice.tools.doctor.findings import FAULT, FINE, OPEN, WARNING, Case
from dice.tools.doctor.models import dtype, same_again


def change_weights(folder, change):
    """A model's weights after `change`, which gets them by name."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.slow
def test_weights_that_are_no_numbers(settings, policy):
    change_weights(policy, lambda weights: weights["model.norm.weight"].fill_(float("nan")))
    finding = found("step 0", *settings, f"policy={policy}")
    assert finding.level == FAULT and "log-probs under the policy are no numbers" in finding.what
    finding = found("rewards", *settings, f"reference={policy}")
    assert finding.level == FAULT and "log-probs under the reference are no numbers" in finding.what


def test_weights_that_lack_a_part(settings, policy):
    change_weights(policy, lambda weights: weights.pop("model.layers.0.mlp.up_proj.weight"))
    finding = found("rewards", *settings, f"policy={policy}")
    assert finding.level == FAULT and "its weights lack model.layers.0.mlp.up_proj.weight" in finding.what


def test_log_probs_that_depend_on_the_batch():
    """What a model with such kernels would give: the same rows, another batch, other numbers."""
    whole = [torch.tensor([-1.0, -2.0]).numpy(), torch.tensor([-3.0]).numpy()]
    apart = [whole[0] + 0.01, whole[1]]
    finding = same_again(whole, apart, "float32")
    assert finding.level == FAULT and "rewards of at most 2.0e-02 nats, 1.0e-02 a token" in finding.what
    assert same_again(whole, apart, "bfloat16").level == FINE


@pytest.mark.slow
def test_one_model_in_two_files(settings, random_model, tmp_path):
    """The same weights in other shards are no longer the same files."""
    sharded = shutil.copytree(random_model, tmp_path / "sharded")
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(random_model).save_pretrained(sharded, max_shard_size="200KB")
    finding = found("rewards", *settings, f"reference={sharded}")
    assert finding.level == FAULT and "policy and reference are one model" in finding.what


@pytest.mark.slow
def test_labels_the_wrong_way_round(settings, data_dir, random_model, other_random_model):
    """Every pair labelled against the implicit reward, then every one for it."""
    from dice.models.chat_template import load_chat

    encode = load_chat(str(random_model), "llama3-custom").encode
    pairs = [json.loads(line) for line in (data_dir / "pairs.jsonl").open()]
    rows = [
        encode([{"role": "user", "content": pair["instruction"]}], pair[side])
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    scorer, sums = Scorer(Options("float32")), []
    for model in (random_model, other_random_model):
        scorer.use(str(model))
        sums.append([float(logps.sum()) for logps in scorer.token_logps(rows)])
    reward = [ours - theirs for ours, theirs in zip(*sums, strict=True)]
    for wrong, level, told in ((True, WARNING, "in 0% of 20 pairs"), (False, FINE, "in 100% of 20 pairs")):
        with (data_dir / "pairs.jsonl").open("w") as file:
            for index, pair in enumerate(pairs):
                agrees = reward[2 * index] > reward[2 * index + 1]
                sides = ("chosen", "rejected") if agrees != wrong else ("rejected", "chosen")
                row = {"chosen": pair[sides[0]], "rejected": pair[sides[1]]}
                file.write(json.dumps({**pair, **row}) + "\n")
        finding = found("rewards", *settings)
        assert (finding.level, told in finding.what) == (level, True), finding


@pytest.mark.slow
def test_made_up_answers_have_no_labels(settings):
    """Without replay nothing says which answer is the better one, and no pair is trained on as it is."""
    loaded = load("tiny", [*settings, "replay.gamma=0", "score.cutoff_len=70"])
    told = {f.topic: f.what for f in doctor.findings(loaded, partial(origin, "tiny", settings))}
    assert "answers of the data" in told["rewards"] and "chosen above" not in told["rewards"]
    assert "cutoff" not in told


@pytest.mark.slow
def test_a_policy_that_never_ends(settings):
    """A random model gives every token about 1 of 512."""
    finding = found("endings", *settings)
    assert finding.level == WARNING and "the policy ends real answers with probability 0.00" in finding.what


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_model_too_large_for_a_cpu(settings, policy):
    """1.2 billion parameters, of which the disk holds only the header."""
    shape, size = [600, 2_000_000], 600 * 2_000_000 * 2
    tensor = {"dtype": "F16", "shape": shape, "data_offsets": [0, size]}
    header = json.dumps({"model.embed_tokens.weight": tensor}).encode()
    with (policy / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    finding = found("rewards", *settings, f"policy={policy}")
    assert finding.level == OPEN and "takes too long on a CPU" in finding.what


@pytest.mark.parametrize(
    ("asked", "has", "level", "told"),
    [
        ("auto", True, FINE, "auto is bfloat16 here: the CPU has instructions for it"),
        ("auto", False, FINE, "auto is float32 here: the CPU has no instructions for bfloat16"),
        ("bfloat16", True, FINE, "bfloat16, as asked"),
        ("bfloat16", False, WARNING, "bfloat16 on a CPU that has no instructions for it works"),
        ("float16", True, WARNING, "float16 on a CPU that has no instructions for it"),
        ("float32", False, FINE, "float32, as asked"),
    ],
)
def test_which_precision_it_is(settings, monkeypatch, asked, has, level, told):
    monkeypatch.setenv("DICE_DEVICE", "cpu")
    monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda: has)
    finding = dtype(Case(load("tiny", [*settings, f"dtype={asked}"]), {}))
    assert finding.level == level and finding.what.startswith(told)
    monkeypatch.setenv("DICE_DEVICE", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    finding = dtype(Case(load("tiny", [*settings, "dtype=auto"]), {}))
    assert (finding.level, finding.what) == (FINE, "auto is bfloat16 here: there is a GPU")
