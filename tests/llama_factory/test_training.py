"""Training for real: reference log-probs from a table, adapters, kills, what can't be trained on."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from adapters import make_adapter
from commands import run_script
from fake_world import TOPICS, make_random_model
from trainings import DEEPSPEED, PATH, TRAIN, config, torchrun, weights

from dice.inference.scorer import Options, Scorer
from dice.models import trainer
from dice.models.chat_template import load_chat
from dice.models.reference_table import ReferenceTable, response_hash
from dice.run import files
from dice.run.rows import Message, SampledIds, pair_key

pytestmark = pytest.mark.slow
LOSSES = {  # with beta 0.1; ORPO and SimPO have no reference
    **{name: {"pref_loss": name} for name in ("sigmoid", "hinge", "ipo", "kto_pair", "orpo", "simpo")},
    "smoothed": {"dpo_label_smoothing": 0.2},
    "with bco": {"pref_bco_weight": 2.0},
    "with sft": {"pref_ftx": 0.5, "disable_shuffling": True, "val_size": 0},
}


def rows(count):
    """Preferences of many lengths."""
    return [
        {
            "instruction": f"{number}: what about {TOPICS[number % 10]}?",
            "chosen": " ".join(TOPICS[number % 3 : 4 + number % 6]) * (1 + number % 4),
            "rejected": " ".join(TOPICS[number % 7 : 8]) or "no",
        }
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A dataset_dir with 64 preferences."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "pairs.json").write_text(json.dumps(rows(64)))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    return folder


@pytest.fixture(scope="module")
def adapter(random_model, tmp_path_factory):
    """A policy that is an adapter already, as from round 2 on."""
    return make_adapter(random_model, tmp_path_factory.mktemp("adapter") / "round-1", seed=3)


def scored(policy, count=30, bits=None):
    """The table of some rows as scoring would have made it."""
    chat, scorer = load_chat(str(policy), "llama3-custom"), Scorer(Options("float32", "auto", bits, "auto"))
    scorer.use(str(policy))
    encoded = [
        chat.encode([Message(role="user", content=row["instruction"])], row[side])
        for row in rows(64)[:count]
        for side in ("chosen", "rejected")
    ]
    sums = [float(logps.sum()) for logps in scorer.token_logps(encoded)]
    return ReferenceTable(zip((response_hash(*ids) for ids in encoded), sums, strict=True))


def sides(data, folder, policy, bits=None, **changes):
    """One training with each kind of reference: by a model, from a table that knows half of the rows.

    In this order one process can do both: once there is a table, LLaMA-Factory loads no reference model.
    """
    adapter = changes.get("adapter_name_or_path")
    scored(adapter or policy, bits=bits).save(folder / "known.safetensors")
    table = {"reference_logps": "table", "reference_table": str(folder / "known.safetensors")}
    model = {"reference_logps": "model", "ref_model": str(policy)}
    model |= {"ref_model_adapters": adapter} if adapter else {}
    return [
        config(data, folder / name, policy, **changes, **own)
        for name, own in (("model", model), ("table", table))
    ]


def history(output):
    return json.loads((output / "trainer_state.json").read_text())["log_history"]


def compare(first, second, steps=30, tolerance=1e-5):
    """Losses, rewards and weights of two trainings are equal; and something was learned."""
    ours, theirs = history(first), history(second)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for key in ("loss", "eval_loss", "rewards/chosen", "rewards/margins", "eval_rewards/margins"):
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), abs=tolerance), (one, other)
    losses = [entry["loss"] for entry in ours if "loss" in entry]
    assert len(losses) == steps and losses[-1] < losses[0]
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert max(float((one[key] - other[key]).abs().max()) for key in one) <= tolerance


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
    both = sides(data, tmp_path, random_model, **changes)
    # Several processes meet once in their life: each of these trainings has its own.
    for together in [both] if processes == 1 else [[side] for side in both]:
        torchrun(together, processes, **env)
    compare(tmp_path / "table", tmp_path / "model")
    counts = json.loads((tmp_path / "table" / "reference.json").read_text())
    assert counts == {"known": 60, "computed": 68}


def test_every_preference_loss(data, random_model, tmp_path):
    """The same losses from a table and from a model, of the value that each has at its reference."""
    configs = []
    for name, changes in LOSSES.items():
        (tmp_path / name).mkdir()
        short = {"max_steps": 4, "eval_strategy": "no", **changes}
        configs += sides(data, tmp_path / name, random_model, **short)
    torchrun(sorted(configs, key=lambda config: config["reference_logps"]), 1)
    for name in LOSSES:
        compare(tmp_path / name / "table", tmp_path / name / "model", steps=4)
    losses = {name: history(tmp_path / name / "table")[0]["loss"] for name in LOSSES}
    at_the_reference = {"sigmoid": np.log(2), "hinge": 1, "ipo": 25, "kto_pair": 0.5, "smoothed": np.log(2)}
    at_the_reference["with bco"] = (np.log(2) + 2 * 2 * np.log(2)) / (1 + 2)  # BCO's is twice log 2
    at_the_reference["with sft"] = np.log(2) + 0.5 * sft_loss(random_model)
    for name, expected in at_the_reference.items():
        assert losses[name] == pytest.approx(expected, abs=1e-3)


def sft_loss(policy):
    """Of the first batch's chosen responses: their mean log-prob by token, in nats, with the sign changed."""
    chat, scorer = load_chat(str(policy), "llama3-custom"), Scorer(Options("float32"))
    scorer.use(str(policy))
    prompts = [[Message(role="user", content=row["instruction"])] for row in rows(8)]
    chosen = [row["chosen"] for row in rows(8)]
    return -np.mean([logps.mean() for logps in scorer.token_logps(list(map(chat.encode, prompts, chosen)))])


def refused(config, *arguments):
    """The one line that a training ends with before its first step."""
    path = Path(config["output_dir"] + ".yaml")
    path.write_text(yaml.safe_dump(config))
    told = path.with_suffix(".complaint")
    result = run_script(
        sys.executable, str(TRAIN), str(path), *arguments, PYTHONPATH=PATH, DICE_COMPLAINT=str(told)
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    status, said = told.read_text().splitlines()
    assert status == "2"
    assert f"error: {said}\n" in result.stderr
    assert not (Path(config["output_dir"]) / "trainer_log.jsonl").exists()
    return said


def test_what_can_not_be_trained_on_is_refused_before_the_first_step(data, random_model, tmp_path):
    table = scored(random_model)
    known = tmp_path / "known.safetensors"
    table.save(known)
    start = config(data, tmp_path / "out", random_model, reference_logps="table", reference_table=str(known))

    shifted = ReferenceTable((key, logp - 5) for key, logp in table.items())
    shifted.save(tmp_path / "other-model.safetensors")
    said = refused(start, f"reference_table={tmp_path}/other-model.safetensors")
    assert "at step 0 the policy is not its reference" in said
    assert f"the reference side is wrong: {tmp_path}/other-model.safetensors does not hold" in said

    ReferenceTable({"0" * 32: -1.0}).save(tmp_path / "other-data.safetensors")
    said = refused(start, f"reference_table={tmp_path}/other-data.safetensors")
    assert said.startswith(f"{tmp_path}/other-data.safetensors: none of the 128 responses is in it")

    chosen_ids, stray = [7, 2_000, 8], tmp_path / "sampled_ids.jsonl"
    first = rows(1)[0]
    asked = [Message(role="user", content=first["instruction"])]
    for pair, wrong in (
        (
            (asked, first["chosen"], first["rejected"]),
            "has embeddings for token ids below 512; the data have 2,000",
        ),
        (
            (asked, "another", "answer"),
            f"{stray}: 1 of its 1 rows are of no pair of pairs; both must come from",
        ),
    ):
        files.write_rows(stray, [SampledIds(pair_key(*pair), chosen_ids)])
        assert wrong in refused(start, f"sampled_ids={stray}")

    said = refused(start, "ld_alpha=0.5")
    assert said.startswith("ld_alpha can't be used with reference_logps: LLaMA-Factory applies it to the pol")

    said = refused(start, "per_device_train_batch_size=64")
    assert said.startswith("56 rows of pairs are left to train on") and "a batch is 128" in said


def test_a_reference_model_that_is_not_the_policy_is_noticed(
    data, random_model, other_random_model, tmp_path
):
    wrong = {"reference_logps": "model", "ref_model": str(other_random_model)}
    said = refused(config(data, tmp_path / "out", random_model, **wrong))
    assert f"the reference side is wrong: {other_random_model} is not the policy" in said


def test_a_checkpoint_of_another_model_or_of_other_data(data, random_model, other_random_model, tmp_path):
    short = {"max_steps": 3, "save_steps": 1, "save_strategy": "steps", "reference_logps": "table"}
    start = config(data, tmp_path / "out", random_model, only_last_checkpoint=True, **short)
    torchrun([start], 1)
    checkpoints = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    assert checkpoints == ["checkpoint-2", "checkpoint-3"]  # 1 is gone since 2 is complete
    assert trainer.is_complete(tmp_path / "out" / "checkpoint-2")
    assert not trainer.is_complete(
        tmp_path / "out" / "checkpoint-3"
    )  # from there it would train a fourth step
    going_on = f"resume_from_checkpoint={tmp_path}/out/checkpoint-2"
    other = start | {"output_dir": str(tmp_path / "other")}
    said = refused(other, going_on, f"model_name_or_path={other_random_model}")
    assert f"checkpoint-2: its training began with {random_model}, not with {other_random_model}" in said
    (data / "more.json").write_text(json.dumps(rows(70)))
    info = json.loads((data / "dataset_info.json").read_text())
    info["more"] = info["pairs"] | {"file_name": "more.json"}
    (data / "dataset_info.json").write_text(json.dumps(info))
    said = refused(other, going_on, "dataset=more")
    assert "12 of the 140 responses are not in it; the checkpoint was trained on other data" in said


@pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="tensorboard is not installed")
def test_a_logger(data, random_model, tmp_path):
    start = config(data, tmp_path / "out", random_model, max_steps=2, report_to="tensorboard", val_size=0)
    start |= {"eval_strategy": "no"}
    trainer.train(start, tmp_path / "logs" / "train.log", "train")
    assert list((tmp_path / "logs" / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")
def test_an_adapter_on_a_quantized_base(data, tmp_path):
    """QLoRA: the table of scores in 4 bits is right at step 0, and equals a reference model in 4 bits."""
    width = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    base = make_random_model(tmp_path / "base", 0, **width)  # 4 bits come in blocks of 64 weights
    adapter = make_adapter(base, tmp_path / "adapter", seed=3)
    changes = {"finetuning_type": "lora", "adapter_name_or_path": str(adapter), "quantization_bit": 4}
    model, table = sides(data, tmp_path, base, bits=4, **changes)
    torchrun([model | {"ref_model_quantization_bit": 4}, table], 1)
    compare(tmp_path / "table", tmp_path / "model", tolerance=0.02)  # the CPU kernel computes in bfloat16


@pytest.mark.parametrize(("end", "status"), [("over.set()", 0), ("", 7)])
def test_a_training_that_is_over_leaves_before_python_is_taken_down(end, status):
    """What would abort the process on its way out no longer can; a training that is not over still fails."""
    code = f"""
import atexit, os, threading, train
class Teardown:
    def __del__(self, abort=os._exit): abort(7)
teardown, over = Teardown(), threading.Event()
atexit.register(train.leave_without_teardown, over)
atexit.register(print, "a logger has finished")
{end}
"""
    result = run_script(sys.executable, "-c", code, PYTHONPATH=PATH)
    assert (result.returncode, result.stdout) == (status, "a logger has finished\n"), result.stderr
