"""The stages on a real language model, SmolLM2-135M-Instruct; skipped where it can't be had."""

import fcntl
import importlib.util
import json
import shutil

import fake_world
import numpy as np
import pytest
from adapters import make_adapter
from commands import run_dice, run_python, run_script
from float64 import one_by_one
from trainings import kill_at_a_checkpoint

import smollm2
from dice.errors import BadInput
from dice.inference.scorer import Options, Scorer
from dice.models.chat_template import load_chat
from dice.recipe.paths import ROOT
from dice.run import files
from dice.run.rows import Response
from dice.run.run import open_run

pytestmark = pytest.mark.slow
HAS_VLLM = importlib.util.find_spec("vllm") is not None
QUESTIONS = ("What is tea?", "Say hello in a short sentence.", "Name a colour.", "Is snow cold? Yes or no?")
IN_ONE_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "2"}
PLAIN = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="float32")
turns = [{"role": "user", "content": "What is tea?"}]
ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
out = model.generate(**ids, max_new_tokens=12, do_sample=False)
print("answer:", out[0, ids.input_ids.shape[1]:].tolist())
"""
BY_VLLM = """
import sys
from vllm import LLM, SamplingParams
if __name__ == "__main__":
    model = LLM(sys.argv[1], dtype="float32", max_model_len=256, enforce_eager=True)
    turns = [{"role": "user", "content": "What is tea?"}]
    (out,) = model.chat(turns, SamplingParams(temperature=0, max_tokens=12))
    print("answer:", list(out.outputs[0].token_ids))
"""


@pytest.fixture(scope="module")
def instruct():
    """The model, in the place where the recipe smollm2 makes it; one of several testers fetches it."""
    folder = ROOT / "data" / "smollm2" / "instruct"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            smollm2.make(folder)
        except BadInput as error:
            pytest.skip(str(error))
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smollm2")
    data = fake_world.make_data(folder / "data")
    (data / "prompts.json").write_text(json.dumps([{"instruction": text} for text in QUESTIONS]))
    return folder


@pytest.fixture(scope="module")
def policy(instruct, place):
    """An adapter that answers a little otherwise than the model that is its reference."""
    return make_adapter(instruct, place / "policy", 1, std=0.01)


def settings(place, instruct, policy, name, *changes):
    return [
        "smollm2", "prepare=null", f"policy={policy}", f"reference={instruct}", f"run={name}", "rounds=1",
        f"dataset_dir={place / 'data'}", f"results_dir={place / 'results'}", "prompts=some_prompts",
        "replay.dataset=some_pairs", "evaluate.prompts=null", "evaluate.judge=null",
        "evaluate.preferences=null", "report=false", "generate.engine=hf",
        "generate.samples=4", "generate.max_new_tokens=32", "generate.shard_size=2",
        "pair.min_samples=2", "train.global_batch_size=2", "train.num_train_epochs=2", "train.save_steps=1",
        "train.logging_steps=1", "train.finetuning_type=lora", "train.lora_target=all",
        "train.learning_rate=1e-3", "train.bf16=false", "dtype=float32", *changes,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def run(place, instruct, policy):
    """A round of adapters by the whole loop."""
    result = run_script("bash", "scripts/run_dice/iter.sh", *settings(place, instruct, policy, "round"))
    assert result.returncode == 0, result.stdout + result.stderr
    return open_run(place / "results" / "round")


def test_scores_are_those_of_float64(instruct):
    chat, scorer = load_chat(str(instruct), "smollm2"), Scorer(Options("float32"))
    answers = ("A hot drink, made of leaves and 1,000 ml of water.", "Hello!")
    asked = ([{"role": "user", "content": text}] for text in QUESTIONS[:2])
    rows = list(map(chat.encode, asked, answers))
    scorer.use(str(instruct))
    for ours, theirs in zip(scorer.token_logps(rows), one_by_one(instruct, rows), strict=True):
        assert ours == pytest.approx(np.array(theirs), abs=2e-4)


def test_ids_are_those_of_its_own_chat_template(instruct):
    """Where the system prompt is said; LLaMA-Factory's own differs from the model's by a full stop."""
    from transformers import AutoTokenizer

    chat, tokenizer = load_chat(str(instruct), "smollm2"), AutoTokenizer.from_pretrained(instruct)
    turns = [("system", "Be brief."), ("user", "Count to 12."), ("assistant", "1, 2"), ("user", "And 345?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    theirs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True).input_ids
    assert chat.encode_prompt(messages) == theirs
    assert tokenizer.eos_token_id in chat.stop_ids and tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer("12345").input_ids) == 5


@pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed")
def test_vllm_and_transformers_answer_alike(place, instruct, policy):
    """Almost without chance, both take the most probable token; kernels may differ where two are close."""
    found = {}
    for engine in ("hf", "vllm"):
        own = [f"generate.engine={engine}", "generate.temperature=0.001", "generate.samples=2"]
        assert run_dice("start", *settings(place, instruct, policy, engine, *own)).returncode == 0
        result = run_dice("generate", str(place / "results" / engine), "1")
        assert result.returncode == 0, result.stderr
        shards = files.shards(place / "results" / engine / "round-1" / "responses")
        rows = [row for path in shards for row in files.read_rows(path, Response)]
        found[engine] = {(row.prompt_id, row.sample): row.response for row in rows}
    assert found["hf"].keys() == found["vllm"].keys() and len(found["hf"]) == 2 * len(QUESTIONS)
    assert sum(found["hf"][key] == found["vllm"][key] for key in found["hf"]) >= 2 * len(QUESTIONS) - 2


def test_a_round_of_adapters_learns(run):
    curves = [json.loads(line) for line in (run.round_dir(1) / "curves.jsonl").open()]
    assert curves[0]["loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert curves[-1]["rewards/margins"] > 0


def test_what_is_exported_is_read_by_others(run, place):
    """By transformers and by vLLM as they are: both give the same answer."""
    result = run_dice("export", str(run.path), "1", f"--output={place / 'whole'}")
    assert result.returncode == 0, result.stderr
    answers = []
    for script in (PLAIN, *([BY_VLLM] if HAS_VLLM else [])):
        result = run_python(script, str(place / "whole"), **IN_ONE_PROCESS)
        assert result.returncode == 0, result.stderr[-2000:]
        answers += [line for line in result.stdout.splitlines() if line.startswith("answer: ")]
    assert len(answers) == 1 + HAS_VLLM and len({*answers}) == 1


def test_a_killed_training_ends_with_the_same_model(run, place):
    copy = place / "results" / "killed"
    shutil.copytree(run.path, copy)
    folder = copy / "round-1"
    for name in ("train.manifest.json", "model", "curves.jsonl"):
        files.remove(folder / name)
    kill_at_a_checkpoint(copy)
    result = run_dice("train", str(copy), "1")
    assert result.returncode == 0 and "goes on from step" in result.stdout, result.stderr
    for path in (run.round_dir(1) / "model").iterdir():
        assert (folder / "model" / path.name).read_bytes() == path.read_bytes(), path.name
