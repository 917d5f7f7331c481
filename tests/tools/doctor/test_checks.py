"""The doctor's first part: what `start` checks, told as findings."""

import json
import shutil
import sys

import pytest
from doctored import found

from dice.models import hub
from dice.stages.prepare import start
from dice.tools.doctor.findings import FAULT, FINE, OPEN


@pytest.mark.parametrize(
    ("topic", "override", "told"),
    [
        ("template", "template=llama-3", "unknown template 'llama-3'; there are: "),
        ("arguments", "train.learning_rat=1", "did you mean learning_rate?"),
        ("arguments", "train.learning_rate=fast", "LLaMA-Factory takes float"),
        ("names", "prompts=nope", "no data set 'nope'"),
        ("names", "evaluate.judge=gone.py:f", "gone.py does not exist"),
        ("replay.dataset", "replay.gamma=0.99", "too few for replay.gamma 0.99"),
        ("policy", "policy=no/such/model", "neither a folder here nor a model of the Hub"),
        ("reference", "reference=tests", "has no config.json"),
        ("fit", "template=chatml", "needs the tokens <|im_end|>"),
    ],
)
def test_what_start_refuses(settings, topic, override, told):
    finding = found(topic, *settings, override)
    assert finding.level == FAULT and finding.refused and told in finding.what and finding.advice


def test_a_batch_that_the_workers_can_not_share(settings, monkeypatch):
    monkeypatch.setenv("NPROC_PER_NODE", "3")
    finding = found("batch", *settings)
    assert finding.level == FAULT and "3 processes can't share evenly" in finding.what


def test_an_engine_that_is_not_installed(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)  # how Python notes down that there is no such module
    finding = found("engine", *settings, "generate.engine=vllm")
    assert finding.level == FAULT and "vllm, which is not installed" in finding.what


def test_engines_that_can_not_share_the_gpus(settings, monkeypatch):
    monkeypatch.delenv("DICE_DEVICE", raising=False)
    monkeypatch.delenv("NPROC_PER_NODE", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    asked = [*settings, "generate.engine=vllm", "generate.tensor_parallel=3"]
    finding = found("engines", *asked)
    assert finding.level == FAULT and "tensor_parallel is 3, which 4 GPUs can't be shared" in finding.what


@pytest.mark.parametrize(
    ("overrides", "level", "told"),
    [
        (["train.report_to=neptune"], FAULT, "train.report_to needs neptune, which is not installed"),
        (["train.report_to=[wandb]"], FAULT, "train.report_to needs wandb, which is not installed"),
        (["train.report_to=dagshub"], FINE, "nothing optional"),  # of another name than its package
        (["train.quantization_bit=4"], FAULT, "train.quantization_bit needs bitsandbytes"),
        (["train.quantization_bit=4", "train.quantization_method=hqq"], FINE, "nothing optional"),
    ],
)
def test_packages_that_are_not_installed(settings, monkeypatch, overrides, level, told):
    for name in ("neptune", "wandb", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, name, None)
    finding = found("packages", *settings, "train.finetuning_type=lora", *overrides)
    assert (finding.level, told in finding.what) == (level, True), finding


@pytest.mark.parametrize(("file", "topic"), [("prompts.json", "prompts"), ("pairs.jsonl", "replay.dataset")])
def test_data_that_can_not_be_read(settings, data_dir, file, topic):
    (data_dir / file).write_text('{"instruction": "a", "chosen": }')
    finding = found(topic, *settings)
    assert finding.level == FAULT and f"{file}:1: not JSON" in finding.what


def test_data_on_a_hub_that_can_not_be_reached(settings, data_dir):
    hub.settle()  # which the tests keep out of reach
    registry = {"far": {"hf_hub_url": "some/set", "columns": {"prompt": "instruction"}}}
    (data_dir / "dataset_info.json").write_text(json.dumps(registry))
    finding = found("prompts", *settings, "prompts=far", "replay.gamma=0", "evaluate.prompts=far")
    assert finding.level == OPEN and "on the Hub, not in its cache: the Hub can't be reached" in finding.what


def test_what_was_not_compared_is_not_called_right(settings, data_dir, monkeypatch):
    """Rows of a set that can't be read, and weights that are still to be downloaded."""
    (data_dir / "prompts.json").write_text("[")
    finding = found("rows", *settings)
    assert (finding.level, finding.what) == (OPEN, "not counted: a data set tells nothing yet")
    monkeypatch.setattr("dice.stages.checks.check_model", lambda role, name: None)  # the Hub has it
    finding = found("two models", *settings)
    assert finding.level == OPEN and finding.what.startswith(
        "not compared: policy and reference are not both"
    )


@pytest.mark.slow
def test_start_says_what_it_could_not_compare(settings, policy, other_random_model, tmp_path, capsys):
    """As the doctor, and goes on; a template that never ends does not hold it up."""
    other = shutil.copytree(other_random_model, tmp_path / "other")
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    for folder in (policy, other):
        (folder / "chat_template.jinja").write_text(loop)
    own = [*settings, f"policy={policy}", f"reference={other}"]
    told = "not compared: a chat template of policy or reference can't be rendered (it takes more than 2 s)"
    finding = found("tokenizers", *own)
    assert (finding.level, finding.what) == (OPEN, told)
    start("tiny", own)
    assert f"! tokenizers: {told}\n" in capsys.readouterr().out


def test_data_on_a_hub_that_can_be_reached(settings, data_dir, monkeypatch):
    """It is not downloaded: `datasets` is kept from asking, whether it would be answered or not."""
    import datasets
    from huggingface_hub import constants

    registry = {"far": {"hf_hub_url": "some/set", "columns": {"prompt": "instruction"}}}
    (data_dir / "dataset_info.json").write_text(json.dumps(registry))
    monkeypatch.setattr(hub, "_out_of_reach", [])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    asked = []

    def load_dataset(*_, **__):
        asked.append((constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE))
        raise ConnectionError("not cached")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    finding = found("prompts", *settings, "prompts=far", "replay.gamma=0", "evaluate.prompts=far")
    assert finding.level == OPEN and finding.what == "on the Hub, not in its cache: a run downloads it"
    assert asked == [(True, True)] and not datasets.config.HF_HUB_OFFLINE


def test_a_judge_that_can_not_be_run(settings, tmp_path):
    (tmp_path / "judge.py").write_text("quality = 1 / 0")
    finding = found("names", *settings, f"evaluate.judge={tmp_path / 'judge.py'}:quality")
    assert finding.level == FAULT and "can't be run (ZeroDivisionError: division by zero)" in finding.what


def test_a_policy_that_is_an_adapter(settings, random_model, tmp_path):
    """Its tokenizer and its EOS are its base's; its base is a reference like any other."""
    from adapters import make_adapter

    adapter = make_adapter(random_model, tmp_path / "adapter", 1)
    for topic in ("policy", "two models", "tokenizers", "fit", "token ids"):
        assert found(topic, *settings, f"policy={adapter}", f"reference={random_model}").level == FINE


def test_an_adapter_that_training_can_not_train(settings, random_model, tmp_path):
    from adapters import make_adapter

    adapter = make_adapter(random_model, tmp_path / "adapter", 1)
    asked = [*settings, f"policy={adapter}", f"reference={random_model}", "train.finetuning_type=full"]
    finding = found("adapter", *asked)
    assert finding.level == FAULT and "is an adapter, which finetuning_type: full can't train" in finding.what


def test_policy_and_reference_are_one_model(settings, random_model):
    finding = found("two models", *settings, f"reference={random_model}")
    assert finding.level == FAULT and "every implicit reward would be 0" in finding.what


def test_tokenizers_that_differ(settings, policy):
    text = (policy / "tokenizer.json").read_text()
    (policy / "tokenizer.json").write_text(text.replace("<|eot_id|>", "<|other|>"))
    finding = found("tokenizers", *settings, f"policy={policy}")
    assert finding.level == FAULT and "have different vocabularies" in finding.what
