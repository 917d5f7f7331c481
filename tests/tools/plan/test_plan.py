"""The plan: machines, sizes, and arithmetic by hand."""

import json
import math
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM

from dice.errors import BadInput
from dice.launch.hardware import GIB, GPUS, Machine, parse_gpus, recognize
from dice.recipe.load import load_recipe
from dice.stages.prepare import load
from dice.tools import plan
from dice.tools.plan import estimate, sizes
from dice.tools.plan.budget import budget
from dice.tools.plan.estimate import Sampling, Training
from dice.tools.plan.forecast import gigabytes, memory_advice
from dice.tools.plan.sizes import Size, size_of
from dice.tools.plan.workload import workload

A100 = GPUS["A100-80G"]
# Round numbers: 100 parameters, 2 layers of width 4 and 6, keys of width 2, 5 words.
SMALL = Size(100, 2, 4, 6, 2, 5, None, "the test")
FULL = Training("full", 3, False, False, None, 8, 2, 1, 1000, True, 0)


def test_a_text_config_that_is_none_is_passed_over():
    config = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 16}
    assert sizes._of_config(config | {"text_config": [1]}) == sizes._of_config(config)


def test_sizes_of_files(random_model, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(random_model)
    found = size_of(str(random_model))
    assert found.parameters == model.num_parameters() and found.source == "its weights"
    assert (found.layers, found.hidden, found.vocabulary) == (2, 96, 512)
    config = json.loads((random_model / "config.json").read_text())
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    assert sizes._of_config(config).parameters == model.num_parameters() - norms
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(random_model)}))
    assert size_of(str(adapter)).parameters == found.parameters


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("princeton-nlp/Llama-3-Base-8B-SFT", 8),
        ("HuggingFaceH4/zephyr-7b-beta", 7),
        ("Qwen/Qwen2.5-0.5B-Instruct", 0.5),
        ("EleutherAI/pythia-410m", 0.41),
        ("some/8x7B", None),
        ("some/model", None),
    ],
)
def test_sizes_of_names(name, billions):
    found = size_of(name)
    assert found is None if billions is None else found.parameters == int(billions * 1e9)


def test_training_memory_by_hand():
    """Bytes of 100 parameters on one device, of 2 and of 4: ZeRO-3 shares everything that is the model's."""
    overhead, tokens = 3 * GIB, 2 * 10  # chosen and rejected of 10 tokens
    activations = 2 * tokens * 2 * 4 + 2 * tokens * (8 * 4 + 4 * 6) + 14 * tokens * 5
    gathered = 2 * 2 * 100 / 2 + 2 * 5 * 4
    for count in (1, 2, 4):
        states = 16 * 100 + 2 * 100  # with a reference of 2 bytes
        expected = int(states / count + gathered + activations + overhead)
        assert estimate.train_memory(SMALL, A100, count, FULL, 10) == expected


def test_what_saves_training_memory():
    size = size_of("llama-8b")

    def memory(count=1, **changes):
        how = Training(**{**FULL.__dict__, "keeps_reference": False, **changes})
        return estimate.train_memory(size, A100, count, how, 1000) / 1e9

    alone = memory(zero_stage=0)
    assert alone > 16 * 8  # 16 bytes a parameter
    assert memory(count=8) < memory(count=8, zero_stage=2) < memory(count=8, zero_stage=0) == alone
    assert memory(zero_stage=0, keeps_reference=True) == pytest.approx(alone + 16)
    assert memory(offloads_optimizer=True) == pytest.approx(memory() - 12 * 8)
    lora = memory(zero_stage=0, kind="lora")
    assert 16 < lora < 30 and memory(zero_stage=0, kind="lora", quantization_bit=4) < lora - 8


def test_lora_has_the_parameters_that_peft_gives_it(random_model):
    from peft import LoraConfig, get_peft_model

    whole = AutoModelForCausalLM.from_pretrained(random_model)
    model = get_peft_model(whole, LoraConfig(r=4, target_modules="all-linear"))
    trained, _ = model.get_nb_trainable_parameters()
    assert estimate.adapter_parameters(size_of(str(random_model)), 4) == trained


def test_time_by_hand(fake_settings):
    """Scoring: two models, 2 FLOPs a parameter and token, 40% of the peak; and attention beside that."""
    work = workload(load("tiny", fake_settings))
    machine = Machine(A100, 2, "")
    tokens = work.prompts * (work.prompt_tokens + work.samples * work.response_tokens)
    row = work.prompt_tokens + work.response_tokens
    flops = 2 * tokens * (2 * 100 + 2 * 2 * 4 * row)
    expected = flops / (0.4 * 312e12) / 2 + 2 * 200 / 1.5e9 + 30
    assert estimate.score(SMALL, machine, work, None).seconds == pytest.approx(expected)
    slower, unknown = Machine(A100, 1, ""), Machine(recognize("?", GIB), 1, "")
    first, second = (estimate.train(SMALL, m, work, FULL, 10).seconds for m in (machine, slower))
    assert first < second
    alone = estimate.train(SMALL, slower, work, replace(FULL, keeps_reference=False), 10).seconds
    pairs = 2 * row * (2 * 100 + 2 * 2 * 4 * row) * (3 * work.steps * work.batch + work.offline)
    assert alone == pytest.approx(pairs / (0.2 * 312e12) + 400 / 1.5e9 + 60)
    assert math.isnan(estimate.generate(SMALL, unknown, work, Sampling(8, 10, 0.9)).seconds)


def test_sampling_by_hand(fake_settings):
    """Eight rows at once: a step reads 200 bytes of weights, and 2 x 2 x 2 x 2 bytes a token of the rows."""
    work = workload(load("tiny", fake_settings))
    cost = estimate.generate(SMALL, Machine(A100, 2, ""), work, Sampling(8, 1000, 0.9))
    assert cost.memory == 200 + 16 * 1000 + 3 * GIB
    context = work.prompt_tokens + work.response_tokens / 2
    step = (200 + 8 * 16 * context) / (0.6 * 2039e9) + 0.004  # the bandwidth is what limits
    steps = work.responses * work.response_tokens / 8
    reading = work.prompts * work.prompt_tokens * 200 / (0.4 * 312e12)
    assert cost.seconds == pytest.approx((steps * step + reading) / 2 + 200 / 1.5e9 + 60)


def test_what_the_engines_hold_at_once(fake_settings):
    """vLLM: its own limit; hf: as many rows of prompt and max_new_tokens as generate.batch_tokens hold."""

    def sampling(*overrides, gpu=A100):
        return budget(load("tiny", [*fake_settings, *overrides]), Machine(gpu, 1, "")).sampling

    longest = workload(load("tiny", fake_settings)).longest_prompt + 64
    assert sampling("generate.engine=vllm") == Sampling(256, longest, 0.9)
    assert sampling("generate.engine=vllm", gpu=GPUS["L40S"]).rows == 256
    assert sampling("generate.engine=vllm", gpu=GPUS["H100-80G"]).rows == 1024
    assert sampling("generate.engine=vllm", "generate.engine_args.max_num_seqs=32").rows == 32
    assert sampling("generate.engine=hf", f"generate.batch_tokens={100 * longest}").rows == 100
    assert sampling("generate.engine=hf", "generate.batch_tokens=1").rows == 8  # one prompt's samples


def test_values_that_are_null_are_as_if_not_given(fake_settings, random_model):
    others = [word for word in fake_settings if not word.startswith(("policy=", "generate.engine="))]
    settings = [*others, f"policy={random_model}", "generate.engine=vllm", "train.save_strategy=null"]
    nulls = ("train.save_steps", "train.lora_rank", "train.freeze_trainable_layers", "train.eval_strategy")
    nulls = [f"{key}=null" for key in (*nulls, "generate.engine_args.max_num_seqs")]
    planned = budget(load("tiny", [*settings, *nulls]), Machine(A100, 1, ""))
    assert (planned.training.rank, planned.training.trained_layers) == (8, 2)
    assert planned.sampling.rows == 256 and planned.disk[2] >= 0
    text = load("tiny", [*settings, "generate.engine_args.gpu_memory_utilization=abc"])
    with pytest.raises(BadInput, match="gpu_memory_utilization is 'abc'; it must be a number above 0"):
        _ = budget(text, Machine(A100, 1, "")).sampling


def test_engines_of_several_gpus(fake_settings):
    """Weights, keys, values and arithmetic of an engine are shared out; there are fewer engines."""
    work = workload(load("tiny", fake_settings))
    cost = estimate.generate(SMALL, Machine(A100, 4, ""), work, Sampling(8, 1000, 0.9, 2))
    assert cost.memory == 100 + 8 * 1000 + 3 * GIB and cost.share == 0.9
    context = work.prompt_tokens + work.response_tokens / 2
    step = (100 + 8 * 8 * context) / (0.6 * 2039e9) + 0.004
    steps = work.responses * work.response_tokens / 8
    reading = work.prompts * work.prompt_tokens * 100 / (0.4 * 312e12)
    assert cost.seconds == pytest.approx((steps * step + reading) / 2 + 200 / 1.5e9 + 60)
    with pytest.raises(BadInput, match="gpus is '8xH200': generate.tensor_parallel, 3, must divide"):
        plan.show_plan("llama3", ["gpus=8xH200", "generate.tensor_parallel=3"])


def test_vllm_must_hold_a_row_of_the_whole_context(fake_settings, random_model):
    others = [word for word in fake_settings if not word.startswith(("policy=", "generate.engine="))]
    settings = [*others, f"policy={random_model}", "generate.engine=vllm"]
    held = [
        budget(load("tiny", [*settings, *more]), Machine(A100, 1, "")).sampling.held_tokens
        for more in ([], ["generate.max_model_len=300"])
    ]
    assert held == [4096, 300]


@pytest.mark.parametrize(
    ("count", "text"),
    [(14e10, "140 GB"), (16e9, "16 GB"), (9.5e9, "9.5 GB"), (2e12, "2.0 TB"), (5e5, "0.5 MB")],
)
def test_bytes_for_people(count, text):
    assert gigabytes(count) == text


def test_work_is_counted_where_the_data_is(fake_settings):
    """10 prompts, 20 offline ones, gamma 0.5: 10 generated and 10 offline pairs, 1 of 20 held out."""
    settings = ["train.val_size=0.05", "train.global_batch_size=4", "train.num_train_epochs=2"]
    work = workload(load("tiny", [*fake_settings, *settings]))
    assert (work.prompts, work.samples, work.responses) == (10, 8, 80)
    assert (work.generated, work.offline, work.held_out, work.train_pairs) == (10, 10, 1, 19)
    assert (work.steps, work.batch) == (10, 4)  # 19 / 4 * 2
    assert work.epochs == pytest.approx(40 / 19)
    assert any("as in some_pairs" in text for text in work.assumptions)


def test_work_is_assumed_where_the_data_is_not():
    """Of llama3: 300 steps of 32 and 576 pairs of validation come from 10,176 prompts."""
    work = workload(load("llama3", []))
    assert (work.prompts, work.generated, work.offline, work.held_out) == (10176, 5088, 5088, 576)
    assert work.epochs == 1 and "10,176 prompts: the data set is not here yet" in work.assumptions


# What the published config.json of Qwen2.5's models says.
QWEN = {"vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
QWEN_1_5B = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
}


@pytest.mark.parametrize("gpus", ["RTX-4070", "RTX-4080"])
def test_the_small_recipe_fits_small_gpus(tmp_path, gpus):
    (tmp_path / "config.json").write_text(json.dumps(QWEN | QWEN_1_5B))
    recipe = load_recipe("qwen-small", [f"policy={tmp_path}", f"reference={tmp_path}"])
    planned = budget(recipe, parse_gpus(gpus))
    assert planned.policy.parameters == pytest.approx(1.54e9, rel=0.01)
    assert memory_advice(planned) is None
