"""The readers that are fuzzed: recipes, the environment, models and judges."""

import io
import os
import random
import shutil
from contextlib import redirect_stderr
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from fuzz_input import TEXT, VALUES, Input, Read, nothing, reader
from fuzz_values import as_json, replaced, spoiled

from dice.launch import devices, processes
from dice.models import checkpoint
from dice.recipe import load
from dice.recipe.paths import ROOT
from dice.run import files
from dice.run.digests import model_digest
from dice.run.run import open_run
from dice.stages import evaluate
from dice.tools.plan import sizes

DICE = {
    "policy": "data/tiny/dpo",
    "reference": "data/tiny/sft",
    "template": "llama3",
    "rounds": 2,
    "seed": 4,
    "prompts": "some_prompts",
    "replay": {"dataset": "some_pairs", "gamma": 0.5},
    "generate": {
        "engine": "hf",
        "samples": 8,
        "temperature": 0.9,
        "top_p": 1.0,
        "max_new_tokens": 4,
        "engine_args": {"x": 1},
        "max_model_len": None,
    },
    "score": {"cutoff_len": 10, "batch_tokens": "auto"},
    "dtype": "auto",
    "prepare": None,
    "pair": {"min_samples": 4, "min_chars": 4, "alpha": 0.1, "min_margin": 0.0, "trl": False},
    "train": {"config": "dpo.yaml", "global_batch_size": 4, "learning_rate": 1e-6},
    "evaluate": {"prompts": "some_prompts", "judge": "judge.py:quality", "samples": 4},
}
DPO = {"stage": "dpo", "finetuning_type": "full", "per_device_train_batch_size": 2, "save_strategy": False}


def recipe_folder(folder: Path) -> None:
    for name, values in {"dice": DICE, "dpo": DPO}.items():
        (folder / f"{name}.yaml").write_bytes(as_json(random.Random(0), values))  # which is YAML too


@reader("recipe: dice.yaml")
def dice_yaml(given: Input, folder: Path) -> tuple[str, Read]:
    recipe_folder(folder)
    what = given.json(folder / "dice.yaml", DICE)
    return what, lambda: nothing(load.resolved_yaml(load.load_recipe(str(folder))))


@reader("recipe: dpo.yaml")
def dpo_yaml(given: Input, folder: Path) -> tuple[str, Read]:
    recipe_folder(folder)
    what = given.json(folder / "dpo.yaml", DPO)
    return what, lambda: nothing(load.resolved_yaml(load.load_recipe(str(folder))))


@reader("recipe: key=value")
def overrides(given: Input, folder: Path) -> tuple[str, Read]:
    recipe_folder(folder)
    keys = [*load.known_keys(), "train.learning_rate", "train.args.x", "train", "replay"]
    words, usual = [], ["1", "2", "0.5", "auto", "null", "true", "hf", "dpo.yaml", "x", "{}"]
    for _ in range(given.rng.randint(1, 3)):
        key = given.rng.choice(keys) if given.chance(0.8) else given.draw(TEXT)
        value = given.rng.choice(usual) if given.chance(0.5) else given.draw(TEXT)
        if given.chance(0.2):
            value = as_json(given.rng, given.draw(VALUES)).decode(errors="replace")
        words.append(f"{key}={value}" if given.chance(0.95) else value)
    return f"{words!r}", lambda: nothing(load.resolved_yaml(load.load_recipe(str(folder), words)))


@reader("recipe.yaml of a run")
def resolved(given: Input, folder: Path) -> tuple[str, Read]:
    recipe_folder(folder)
    whole = load.load_recipe(str(folder)).model_dump()
    what = given.json(folder / "run" / "recipe.yaml", whole)
    return what, lambda: nothing(open_run(folder / "run").policy(2))


@reader("environment")
def environment(given: Input, folder: Path) -> tuple[str, Read]:
    names = ["NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_PORT", "MASTER_ADDR", "CUDA_VISIBLE_DEVICES"]
    text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=8)
    values = text | st.integers(-3, 10**20).map(str)
    wanted = {name: given.draw(values) for name in names if given.chance(0.4)}

    def read() -> int:
        before = dict(os.environ)
        os.environ.update(wanted)
        try:
            devices.engines_per_node(1)
            if devices.node_count() > 1:
                devices.node_rank()
                devices.master_address()
            return nothing(processes.torchrun(["x"], devices.workers_per_node()))
        finally:
            os.environ.clear()
            os.environ.update(before)

    return repr(wanted), read


TINY = ROOT / "data" / "tiny" / "dpo"  # where the tiny world was made
ROUND_MESSAGES = [{"role": "user", "content": "Hi"}]
CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
    "auto_map": {},
    "text_config": {},
}
ADAPTER = {
    "base_model_name_or_path": "base",
    "peft_type": "LORA",
    "r": 8,
    "init_lora_weights": True,
    "bias": "none",
}


def model_folder(folder: Path) -> Path:
    """The files of a model, as far as they are looked at before it is loaded."""
    import safetensors.numpy

    weights = safetensors.numpy.save({"x": np.zeros(2, np.float32)})
    for name in ("model.safetensors", "model-1.safetensors", "adapter_model.safetensors"):
        files.write_text(folder / name, [weights])
    files.write_json(folder / "config.json", CONFIG)
    files.write_json(folder / "tokenizer.json", {})
    return folder


def look_at_model(folder: Path) -> int:
    checkpoint.check_model("policy", str(folder))
    checkpoint.base_of(str(folder))
    checkpoint.alters_base(str(folder))
    checkpoint.tokenizer_home(str(folder))
    sizes.size_of(str(folder))
    return nothing(model_digest(str(folder)))


@reader("model: config.json")
def config_json(given: Input, folder: Path) -> tuple[str, Read]:
    what = given.json(model_folder(folder) / "config.json", CONFIG)
    return what, lambda: look_at_model(folder)


@reader("model: index of its weights")
def weights_index(given: Input, folder: Path) -> tuple[str, Read]:
    index = {"metadata": {"total_size": 8}, "weight_map": {"x": "model-1.safetensors"}}
    what = given.json(model_folder(folder) / "model.safetensors.index.json", index)
    return what, lambda: look_at_model(folder)


@reader("model: safetensors")
def weights(given: Input, folder: Path) -> tuple[str, Read]:
    model_folder(folder)
    path = folder / given.rng.choice(["model.safetensors", "model-1.safetensors"])  # one is not read
    what = given.file(path, spoiled(given.rng, path.read_bytes()))
    return what, lambda: look_at_model(folder)


@reader("model: adapter_config.json")
def adapter_config(given: Input, folder: Path) -> tuple[str, Read]:
    base = model_folder(folder / "base")
    path = model_folder(folder / "adapter") / "adapter_config.json"
    what = given.json(path, ADAPTER | {"base_model_name_or_path": str(base)})
    return what, lambda: look_at_model(folder / "adapter")


@reader("model: loaded")
def loaded(given: Input, folder: Path) -> tuple[str, Read]:
    """A real model of which a file was spoiled, with its tokenizer, as far as it comes into memory."""
    from dice.models import chat_template, loading

    chat_template.register_templates()  # which imports LLaMA-Factory
    if not TINY.is_dir():
        return "data/tiny is not here", lambda: 0
    shutil.copytree(TINY, folder / "model")
    path = given.rng.choice(sorted((folder / "model").iterdir()))
    what = f"{path.name} {replaced(given.rng, path, sorted(TINY.iterdir()))}"

    def read() -> int:
        checkpoint.check_model("policy", str(folder / "model"))
        chat_template.load_chat(str(folder / "model"), "llama3-custom").encode_prompt(ROUND_MESSAGES)
        loading.end_ids(str(folder / "model"))
        with redirect_stderr(io.StringIO()):  # bars
            return nothing(loading.load_model(str(folder / "model"), loading.Options("float32")))

    return what, read


@reader("evaluation's judge")
def judge(given: Input, folder: Path) -> tuple[str, Read]:
    what = given.file(folder / "judge.py", (ROOT / "tests" / "support" / "judge.py").read_bytes())
    name = given.rng.choice(["quality", "", "no", "__doc__"])
    return what, lambda: nothing(evaluate.load_judge(f"{folder / 'judge.py'}:{name}"))
