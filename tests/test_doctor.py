"""Each of the doctor's findings, made to happen: by a broken model, data set, recipe or environment."""

import json
import shutil
import sys
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dice import doctor, hub
from dice.doctor.findings import FAULT, FINE, OPEN, WARNING
from dice.doctor.models import same_again
from dice.errors import BadInput
from dice.logprobs import Options, Scorer
from dice.plan import hardware
from dice.plan.budget import budget
from dice.recipe import RECIPES
from dice.recipe_io import origin
from dice.start import load


@pytest.fixture
def settings(fake_settings, random_model, other_random_model):
    """Overrides of `tiny` for a small healthy run with real models."""
    fakes = ("policy=", "reference=", "generate.engine=")
    own = [word for word in fake_settings if not word.startswith(fakes)]
    models = [f"policy={random_model}", f"reference={other_random_model}"]
    return [*own, "generate.engine=hf", "train.global_batch_size=4", *models]


@pytest.fixture
def policy(random_model, tmp_path):
    """A copy of the policy to be broken."""
    return shutil.copytree(random_model, tmp_path / "policy")


def found(topic, *overrides, recipe="tiny"):
    """What the doctor finds on a topic; later findings are not looked for."""
    loaded = load(recipe, overrides)
    findings = doctor.findings(loaded, partial(origin, recipe, overrides))
    return next(finding for finding in findings if finding.topic == topic)


def change_json(path, **changes):
    """Some keys of a JSON file set; None takes one out."""
    content = {**(json.loads(path.read_text()) if path.exists() else {}), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


@pytest.mark.slow
def test_a_healthy_run(settings, tmp_path):
    """Two random models: nothing is at fault, and nothing is written."""
    loaded = load("tiny", settings)
    before = sorted(tmp_path.rglob("*"))
    findings = list(doctor.findings(loaded, partial(origin, "tiny", settings)))
    assert [finding for finding in findings if finding.level in (FAULT, OPEN)] == []
    # Random models: they end no answer, know nothing of labels, and their EOS is the tokenizer's own.
    assert {f.topic for f in findings if f.level == WARNING} <= {"end of turn", "endings", "rewards"}
    assert len({finding.topic for finding in findings}) == len(findings) == 32
    assert sorted(tmp_path.rglob("*")) == before


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
    from test_models import make_adapter

    adapter = make_adapter(random_model, tmp_path / "adapter", 1)
    for topic in ("policy", "two models", "tokenizers", "fit", "token ids"):
        assert found(topic, *settings, f"policy={adapter}", f"reference={random_model}").level == FINE


def test_an_adapter_that_training_can_not_train(settings, random_model, tmp_path):
    from test_models import make_adapter

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


def installed(folder, name, version):
    """A package of some version, as far as its metadata tells."""
    (folder / f"{name}-{version}.dist-info").mkdir(parents=True)
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def test_versions(settings, tmp_path, monkeypatch):
    assert found("versions", *settings).level == FINE
    installed(tmp_path / "other", "fire", "0.0.1")
    monkeypatch.syspath_prepend(tmp_path / "other")
    finding = found("versions", *settings)
    assert finding.level == WARNING and "fire 0.0.1 (tested: " in finding.what
    installed(tmp_path / "broken", "transformers", "9.0.0")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    finding = found("versions", *settings)
    assert finding.level == FAULT and "llamafactory 0.9.5 needs transformers" in finding.what
    assert "not 9.0.0" in finding.what


@pytest.mark.parametrize(
    ("topic", "level", "override", "told"),
    [
        ("samples", WARNING, "pair.min_samples=8", "8 of a prompt's 8 samples are needed"),
        ("steps", WARNING, "train.num_train_epochs=9", "are 9.0 epochs of 20 pairs"),
        ("steps", FAULT, "train.global_batch_size=32", "20 pairs to train on, less than one batch of 32"),
        ("steps", FAULT, "train.val_size=20", "train.val_size 20 leaves nothing"),
        ("steps", WARNING, "train.warmup_steps=50", "train.warmup_steps 50 of 15 steps"),
        ("memory", WARNING, "policy=some/model-700b", "train needs about"),
        ("memory", OPEN, "policy=some/model", "nothing tells the policy's size"),
        ("disk", FAULT, "rounds=1000000000000", "are free in"),
        ("downloads", FAULT, "policy=some/model-900000b", "some/model-900000b: about 1,800 TB"),
        ("policy", OPEN, "policy=some/model-8b", "not on this machine; a run downloads it (about 16 GB"),
        ("two models", OPEN, "policy=some/model-8b", "not known before both models are on this machine"),
        ("texts", OPEN, "policy=some/model-8b", "there is no tokenizer here"),
        ("rewards", OPEN, "policy=some/model-8b", "some/model-8b is not complete on this machine"),
    ],
)
def test_the_run_as_a_whole(settings, topic, level, override, told):
    finding = found(topic, *settings, override)
    assert (finding.level, told in finding.what) == (level, True), finding


@pytest.mark.parametrize(("share", "level"), [(0.5, FINE), (0.9, WARNING), (1.1, FAULT)])
def test_a_disk_that_is_nearly_full(settings, monkeypatch, share, level):
    """So much of the free disk would be used."""
    need = budget(load("tiny", settings), hardware.find()).disk_to_come
    usage = shutil.disk_usage("/")._replace(free=int(need / share))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    finding = found("disk", *settings)
    assert finding.level == level, finding


def test_results_that_can_not_be_written(settings, tmp_path):
    (tmp_path / "results").write_text("a file")
    finding = found("disk", *settings)
    assert finding.level == FAULT and finding.refused and "no folder that can be written to" in finding.what


LLAMA3 = "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}<|eot_id|>"
ASKING = "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"


@pytest.mark.parametrize(
    ("turn", "level", "told"),
    [
        (LLAMA3, FINE, "renders what the policy's own does"),
        (
            LLAMA3.replace("\n\n", "\n"),
            WARNING,
            "without a system prompt: llama3-custom renders '<|begin_of_text|><|start_header_id|>user",
        ),
        ("{{ raise_exception('not like this') }}", OPEN, "can't be rendered"),
    ],
)
def test_a_chat_template_of_the_policys_own(settings, policy, turn, level, told):
    loop = "{{ bos_token }}{% for m in messages %}" + turn + "{% endfor %}" + ASKING
    (policy / "chat_template.jinja").write_text(loop)
    finding = found("chat template", *settings, f"policy={policy}")
    assert (finding.level, told in finding.what) == (level, True), finding


@pytest.mark.parametrize(
    ("row", "level", "told"),
    [
        ({}, FINE, "renders what the policy's own does"),
        ({"system": "Be brief."}, WARNING, "with a system prompt: llama3-custom renders"),
        ({"history": [["Hi", "Ho"]]}, WARNING, "several turns: llama3-custom renders"),
    ],
)
def test_a_chat_template_that_differs_in_what_the_data_has(settings, policy, data_dir, row, level, told):
    """A template that leaves out system prompts and answers: no matter, unless there are some."""
    loop = "{% for m in messages %}{% if m['role'] == 'user' %}" + LLAMA3 + "{% endif %}{% endfor %}"
    (policy / "chat_template.jinja").write_text("{{ bos_token }}" + loop + ASKING)
    columns = {"prompt": "instruction", "system": "system", "history": "history"}
    entries = json.loads((data_dir / "dataset_info.json").read_text())
    entries["varied"] = {"file_name": "varied.json", "columns": columns}
    (data_dir / "dataset_info.json").write_text(json.dumps(entries))
    (data_dir / "varied.json").write_text(
        json.dumps([{"instruction": "Tell me.", "system": "", "history": [], **row}])
    )
    finding = found("chat template", *settings, f"policy={policy}", "prompts=varied")
    assert (finding.level, told in finding.what) == (level, True), finding


def test_marks_that_are_no_tokens(settings):
    """The random model has no chat template of its own, and reads zephyr's marks as text."""
    assert found("chat template", *settings).level == FINE
    finding = found("chat template", *settings, "template=zephyr-custom")
    assert finding.level == WARNING
    assert finding.what.startswith("<|assistant|>, <|system|>, <|user|> of zephyr-custom are no tokens")


def test_a_chat_template_with_a_bos_that_ours_lacks(settings, policy):
    text = "{{ bos_token }}<|system|>\n{{ messages[0]['content'] }}<|eot_id|>\n<|user|>\n"
    text += "{{ messages[1]['content'] }}<|eot_id|>\n<|assistant|>\n"
    (policy / "chat_template.jinja").write_text(text)
    change_json(policy / "tokenizer_config.json", eos_token="<|eot_id|>")
    overrides = [*settings, f"policy={policy}", "template=zephyr-custom"]
    assert found("chat template", *overrides).level == WARNING
    (policy / "chat_template.jinja").write_text(text.removeprefix("{{ bos_token }}"))
    assert found("chat template", *overrides).level == FINE


def test_a_template_without_an_end(settings):
    finding = found("end of turn", *settings, "template=empty")
    assert finding.level == FAULT and "ends a turn with 'Hello', where sampling does not stop" in finding.what


def test_a_policy_that_ends_otherwise(settings, policy):
    """The base ends with <|end_of_text|>, the template with <|eot_id|>; generation_config may know both."""
    change_json(policy / "config.json", eos_token_id=1)
    change_json(policy / "generation_config.json", eos_token_id=1)
    finding = found("end of turn", *settings, f"policy={policy}")
    assert finding.level == WARNING
    assert "ends a turn with <|eot_id|>, the policy with <|end_of_text|>" in finding.what
    change_json(policy / "generation_config.json", eos_token_id=[1, 4])
    assert found("end of turn", *settings, f"policy={policy}").level == FINE


def test_training_that_reads_other_ids(settings):
    finding = found("token ids", *settings, "template=zephyr-custom", "train.default_system=Hey")
    assert (
        finding.level == FAULT and "training reads a row differently than scoring: at token" in finding.what
    )
    assert "'Hey" in finding.what
    # The argument was for this check alone: without it everything is as before.
    assert found("token ids", *settings, "template=zephyr-custom").level == FINE


def test_a_training_file_that_llama_factory_refuses(settings):
    finding = found("token ids", *settings, "train.mask_history=true", "train.train_on_prompt=true")
    assert finding.level == FAULT and "`mask_history` is incompatible with `train_on_prompt`" in finding.what


def test_prompts_that_change_with_their_response(settings):
    """A template of one's own that looks at the response before it renders the prompt."""
    from dice.upstream import llamafactory

    registry = llamafactory("data.template")

    class Peeking(registry.Template):
        def encode_oneturn(self, tokenizer, messages, system=None, tools=None):
            prompt, response = super().encode_oneturn(tokenizer, messages, system, tools)
            return (prompt if messages[-1]["content"] else [*prompt, 70]), response

    registry.register_template(name="peeking", template_class=Peeking)
    try:
        finding = found("token ids", *settings, "template=peeking")
    finally:
        del registry.TEMPLATES["peeking"]
    assert finding.level == FAULT and "scoring reads a prompt differently than generation" in finding.what


def test_a_tokenizer_that_loses_letters(settings, policy):
    change_json(
        policy / "tokenizer.json", normalizer={"type": "Replace", "pattern": {"String": "e"}, "content": "a"}
    )
    finding = found("round trip", *settings, f"policy={policy}")
    assert (
        finding.level == WARNING and "answers come back from their token ids as another text" in finding.what
    )


@pytest.mark.parametrize(
    ("topic", "level", "overrides", "told"),
    [
        ("room", WARNING, ["generate.max_new_tokens=4090"], "is more than the policy's context, 4,096"),
        ("room", WARNING, ["score.cutoff_len=70"], "is more than score.cutoff_len, 70"),
        ("room", WARNING, ["generate.max_model_len=50"], "is more than the policy's context, 50"),
        (
            "room",
            WARNING,
            ["score.cutoff_len=9000", "generate.max_new_tokens=5000"],
            "score.cutoff_len is 9,000, the policy was made for 4,096 tokens",
        ),
        ("cutoff", FAULT, ["score.cutoff_len=10"], "20 of 20 offline pairs are over score.cutoff_len 10"),
    ],
)
def test_lengths(settings, topic, level, overrides, told):
    finding = found(topic, *settings, *overrides)
    assert (finding.level, told in finding.what) == (level, True), finding


def test_a_pair_that_is_too_long(settings, data_dir):
    pair = {"instruction": "Tell me all.", "chosen": "all " * 400, "rejected": "none"}
    with (data_dir / "pairs.jsonl").open("a") as file:
        file.write(json.dumps(pair) + "\n")
    finding = found("cutoff", *settings, "score.cutoff_len=300")
    assert finding.level == WARNING and "1 of 21 offline pairs are over" in finding.what


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
    (finding,) = same_again(whole, apart, "float32")
    assert finding.level == FAULT and "rewards of at most 2.0e-02 nats, 1.0e-02 a token" in finding.what
    assert next(same_again(whole, apart, "bfloat16")).level == FINE


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
    from dice.chat import load_chat

    encode = load_chat(str(random_model), "llama3-custom").encode
    pairs = [json.loads(line) for line in (data_dir / "pairs.jsonl").open()]
    rows = [
        encode([{"role": "user", "content": pair["instruction"]}], pair[side])
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    scorer, sums = Scorer(Options()), []
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


@pytest.fixture
def own_recipe(tmp_path):
    """A recipe whose models and data its `prepare` is still to make."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(RECIPES / "tiny" / "dpo.yaml", folder)
    text = (RECIPES / "tiny" / "dice.yaml").read_text()
    text = (
        text.replace("data/tiny/", "data/not-made/").replace("tiny_p", "later_p").replace("tiny_h", "later_h")
    )
    text = text.replace("python scripts/tiny/prepare.py", f"touch {tmp_path / 'prepared'}")
    (folder / "dice.yaml").write_text(text)
    names = ("later_prompts", "later_preferences", "later_held_out")
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entries = {name: {"file_name": f"{name}.json", "ranking": True, "columns": columns} for name in names}
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "dataset_info.json").write_text(json.dumps(entries))
    return str(folder)


def test_what_prepare_is_still_to_make(own_recipe, tmp_path):
    overrides = [f"dataset_dir={tmp_path / 'registry'}", f"results_dir={tmp_path / 'results'}"]
    assert doctor.examine(own_recipe, overrides) == 0
    for topic in ("prompts", "replay.dataset", "evaluate.prompts", "policy", "reference", "fit"):
        finding = found(topic, *overrides, recipe=own_recipe)
        assert finding.level == OPEN and "not here yet, `prepare` makes it" in finding.what
    assert found("policy", *overrides, "policy=data/not-made/x", recipe=own_recipe).level == FAULT
    assert not (tmp_path / "prepared").exists() and not (tmp_path / "results").exists()


def test_what_nobody_thought_of(settings):
    """A template of one's own that fails ends one check, not the doctor."""
    from dice.upstream import llamafactory

    registry = llamafactory("data.template")

    class Failing(registry.Template):
        def encode_oneturn(self, tokenizer, messages, system=None, tools=None):
            if messages[0]["content"] not in ("Hi", "Hi there"):
                raise KeyError("no such turn")
            return super().encode_oneturn(tokenizer, messages, system, tools)

    registry.register_template(name="failing", template_class=Failing)
    try:
        finding = found("token ids", *settings, "template=failing")
    finally:
        del registry.TEMPLATES["failing"]
    assert finding.level == WARNING and "could not be looked at: KeyError: 'no such turn'" in finding.what


@pytest.mark.slow
def test_status(settings, capsys):
    """0 where nothing is at fault, 1 where a run would go wrong, 2 where it would not start."""
    settings = [*settings, "train.num_train_epochs=1"]
    assert doctor.examine("tiny", settings) == 0
    assert "0 faults" in capsys.readouterr().out
    assert doctor.examine("tiny", [*settings, "train.val_size=20"]) == 1
    shown = capsys.readouterr().out
    assert "✗ steps" in shown and "→ set train.val_size to a share" in shown and "1 fault" in shown
    with pytest.raises(BadInput, match="unknown template 'x'"):
        doctor.examine("tiny", [*settings, "template=x", "prompts=nope", "reference=tests"])
    shown = capsys.readouterr().out
    assert shown.count("✗") == 3  # template, names, reference: all of them are told
    with pytest.raises(BadInput, match="unknown recipe 'tyni'"):
        doctor.examine("tyni", [])


@pytest.mark.parametrize("name", ["llama3", "zephyr"])
def test_recipes_whose_models_are_not_here(name):
    """They are said to be absent, and the rest is looked at. How full this disk is does not matter."""
    findings = list(doctor.findings(load(name, []), partial(origin, name, [])))
    absent = [finding for finding in findings if "not on this machine; a run downloads it" in finding.what]
    assert [finding.topic for finding in absent] == ["policy", "reference"]
    assert {finding.topic for finding in findings if finding.level == FAULT} <= {"disk", "downloads"}
    assert {"versions", "steps", "memory"} <= {finding.topic for finding in findings}


@pytest.mark.slow
def test_every_fault_and_warning_says_what_to_do(settings):
    overrides = [
        *settings,
        "template=zephyr-custom",
        "pair.min_samples=8",
        "train.val_size=20",
        "score.cutoff_len=60",
    ]
    loaded = load("tiny", overrides)
    bad = [
        f for f in doctor.findings(loaded, partial(origin, "tiny", overrides)) if f.level in (FAULT, WARNING)
    ]
    assert len(bad) >= 4 and all(finding.advice for finding in bad)
