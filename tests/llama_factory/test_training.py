"""Training for real: what can't be trained on, checkpoints of others, loggers, the end."""

import importlib.util
import json
import sys

import pytest
from commands import run_script
from trained_pairs import make_pairs, refused, rows, scored
from trainings import PATH, config, torchrun

from dice.models import trainer
from dice.models.reference_table import ReferenceTable
from dice.run import files
from dice.run.rows import Message, SampledIds, pair_key

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("pairs"))


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

    assert refused(start, "loss=ipo") == "loss is 'ipo'; there are length_normalized, wpo"
    told = "loss and smoothing are for stage: dpo with pref_loss: sigmoid"
    assert refused(start, "loss=wpo", "pref_loss=hinge") == told
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


def test_a_training_leaves_cudnn_out_of_attention():
    """Behind a mask its gradients can be NaN on H100 (pytorch issue 196678)."""
    code = """
import torch, train
try:
    train.run({"loss": "refused"})
except train.BadInput:
    print(torch.backends.cuda.cudnn_sdp_enabled())
"""
    result = run_script(sys.executable, "-c", code, PYTHONPATH=PATH)
    assert result.stdout == "False\n", result.stderr
