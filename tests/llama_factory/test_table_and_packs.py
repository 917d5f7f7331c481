"""Training with the table, and in packs, equals LLaMA-Factory's own with a reference model."""

import importlib.util
import json

import numpy as np
import pytest
from adapters import make_adapter
from fake_world import make_random_model
from trained_pairs import compare, history, make_pairs, refused, rows, sides, state
from trainings import DEEPSPEED, config, torchrun

from dice.inference.scorer import Options, Scorer
from dice.models.chat_template import load_chat
from dice.run.rows import Message

pytestmark = pytest.mark.slow
LOSSES = {  # with beta 0.1; ORPO and SimPO have no reference
    **{name: {"pref_loss": name} for name in ("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo")},
    "smoothed": {"dpo_label_smoothing": 0.2},
    "with bco": {"pref_bco_weight": 2.0},
    "with sft": {"pref_ftx": 0.5, "disable_shuffling": True, "val_size": 0},
    "per token": {"loss": "length_normalized", "pref_beta": 5.0},
    "wpo": {"loss": "wpo"},
    "uncertain": {"smoothing": "smoothing.jsonl"},  # of `data`
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def adapter(random_model, tmp_path_factory):
    """A policy that is an adapter already, as from round 2 on."""
    return make_adapter(random_model, tmp_path_factory.mktemp("adapter") / "round-1", seed=3)


@pytest.mark.parametrize(
    ("kind", "processes", "deepspeed"),
    [
        ("full", 1, None),
        ("lora", 1, None),
        ("full", 2, None),
        ("full", 2, "zero3"),
        ("lora", 2, "zero3"),
    ],
)
def test_a_table_equals_a_model(data, random_model, adapter, tmp_path, kind, processes, deepspeed):
    changes = {"gradient_accumulation_steps": 2 // processes}
    if kind == "lora":
        changes |= {"finetuning_type": "lora", "adapter_name_or_path": str(adapter)}
    if deepspeed:
        changes["deepspeed"] = str(DEEPSPEED / f"{deepspeed}.json")
    env = {"DS_ACCELERATOR": "cpu"} if deepspeed else {}
    model, table, packs = sides(data, tmp_path, random_model, **changes)
    # Several processes meet once in their life: each of these trainings has its own.
    for together in [[model, table, packs]] if processes == 1 else [[model], [packs]]:
        torchrun(together, processes, **env)
    for side in ("table", "packs") if processes == 1 else ("packs",):
        compare(tmp_path / side, tmp_path / "model")
        counts = json.loads((tmp_path / side / "reference.json").read_text())
        assert counts == {"known": 60, "computed": 68}


def test_a_budget_of_tokens_changes_no_step(data, random_model, tmp_path):
    """Of 139 tokens the longest pair has; batches of one pair, of four and of all eight, with checkpoints.

    Of 53 pairs, so that the last step of an epoch has batches of unequal sizes.
    """
    budgets = {"one": 139, "four": 4 * 139, "eight": 5000}
    changes = {"max_steps": 8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    changes |= {"reference_logps": "table", "val_size": 11}
    configs = [config(data, tmp_path / "off", random_model, **changes)] + [
        config(data, tmp_path / name, random_model, pack_tokens=budget, **changes)
        for name, budget in budgets.items()
    ]
    # On a CPU as many pairs are read at once as have 1,024 tokens on average, here a part of a batch.
    large = {**changes, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 1, "max_steps": 4}
    configs.append(config(data, tmp_path / "large", random_model, **large))
    configs.append(config(data, tmp_path / "auto", random_model, pack_tokens="auto", **large))
    torchrun(configs, 1)
    for name, size in {"one": 1, "four": 4, "eight": 8}.items():
        compare(tmp_path / name, tmp_path / "off", steps=8)
        assert state(tmp_path / name)["train_batch_size"] == size
    compare(tmp_path / "auto", tmp_path / "large", steps=4)
    assert state(tmp_path / "auto")["train_batch_size"] == 8
    assert all(entry["tokens_per_second"] > 0 for entry in history(tmp_path / "four") if "loss" in entry)
    assert refused(configs[0] | {"output_dir": str(tmp_path / "refused")}, "pack_tokens=138") == (
        "pack_tokens is 138, but a pair has 139 tokens; raise it, or lower cutoff_len"
    )
    said = refused(
        configs[0] | {"output_dir": str(tmp_path / "kto")}, "pack_tokens=139", "pref_loss=kto_pair"
    )
    assert said.startswith("pack_tokens is 139, but KTO's and BCO's losses take means over a device's batch")


def test_a_model_that_can_not_be_read_in_packs(data, tmp_path):
    """It trains in LLaMA-Factory's own way, unless a budget of tokens asks for packs."""
    model = make_random_model(tmp_path / "model", 0, attention_dropout=0.5)
    start = config(data, tmp_path / "out", model, max_steps=1, val_size=0, eval_strategy="no")
    said = refused(start, "pack_tokens=1000")
    reason = "the attention of LlamaForCausalLM can't be replaced"
    assert said == f"pack_tokens is 1000, but {reason}; set it to off"
    torchrun([start | {"pack_tokens": "auto", "output_dir": str(tmp_path / "trained")}], 1)
    assert (tmp_path / "trained" / "model.safetensors").exists()


def test_every_preference_loss(data, random_model, tmp_path):
    """The same losses from a table and from a model, of the value that each has at its reference."""
    configs = []
    for name, changes in LOSSES.items():
        (tmp_path / name).mkdir()
        short = {"max_steps": 4, "eval_strategy": "no", **changes}
        if "smoothing" in short:
            short["smoothing"] = str(data / short["smoothing"])
        configs += sides(data, tmp_path / name, random_model, **short)
    torchrun(sorted(configs, key=lambda config: config["reference_logps"]), 1)
    for name in LOSSES:
        compare(tmp_path / name / "table", tmp_path / name / "model", steps=4)
        compare(tmp_path / name / "packs", tmp_path / name / "model", steps=4)
    losses = {name: history(tmp_path / name / "table")[0]["loss"] for name in LOSSES}
    at_the_reference = {"sigmoid": np.log(2), "hinge": 1, "ipo": 25, "kto_pair": 0.5, "smoothed": np.log(2)}
    at_the_reference |= {"per token": np.log(2), "uncertain": np.log(2)}
    at_the_reference["with bco"] = (np.log(2) + 2 * 2 * np.log(2)) / (1 + 2)  # BCO's is twice log 2
    at_the_reference["with sft"] = np.log(2) + 0.5 * sft_loss(random_model)
    for name, expected in at_the_reference.items():
        assert losses[name] == pytest.approx(expected, abs=1e-3)
    assert 0 < losses["wpo"] < np.log(2) - 0.01  # of a random model no row is what it would sample
    last = [history(tmp_path / name / "table")[3]["loss"] for name in ("sigmoid", "uncertain", "per token")]
    assert len({*last}) == 3


def sft_loss(policy):
    """Of the first batch's chosen responses: their mean log-prob by token, in nats, with the sign changed."""
    chat, scorer = load_chat(str(policy), "llama3-custom"), Scorer(Options("float32"))
    scorer.use(str(policy))
    prompts = [[Message(role="user", content=row["instruction"])] for row in rows(8)]
    chosen = [row["chosen"] for row in rows(8)]
    return -np.mean([logps.mean() for logps in scorer.token_logps(list(map(chat.encode, prompts, chosen)))])


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_an_adapter_on_a_quantized_base(data, tmp_path):
    """QLoRA: the table of scores in 4 bits is right at step 0, and equals a reference model in 4 bits."""
    width = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    base = make_random_model(tmp_path / "base", 0, **width)  # 4 bits come in blocks of 64 weights
    adapter = make_adapter(base, tmp_path / "adapter", seed=3)
    changes = {"finetuning_type": "lora", "adapter_name_or_path": str(adapter), "quantization_bit": 4}
    model, table, packs = sides(data, tmp_path, base, bits=4, **changes)
    torchrun([model | {"ref_model_quantization_bit": 4}, table, packs], 1)
    for side in ("table", "packs"):
        compare(tmp_path / side, tmp_path / "model", tolerance=0.02)  # the CPU kernel computes in bfloat16
