"""Make the tiny world: data, tokenizer, and the SFT and DPO models that DICE starts from.

    python scripts/tiny/prepare.py

Everything goes to data/tiny/, is made once (about a minute and a half on 2 CPU cores) and is the
same every time. Both models are trained by LLaMA-Factory, with sft.yaml and dpo.yaml beside this file.
"""

import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import yaml

import world
from dice.launch.console import run, say
from dice.models import trainer
from dice.recipe.paths import ROOT
from dice.run import files
from dice.run.digests import file_digest

HERE = Path(__file__).resolve().parent
WORLD = ROOT / "data" / "tiny"
MADE_FROM = ("world.py", "prepare.py", "sft.yaml", "dpo.yaml")  # a change of these makes a new world
SEED = 42
HELD_OUT, PROMPTS, PREFERENCES, SFT_ANSWERS = 400, 1200, 3000, 6000
VOCABULARY = 512
SPECIAL_TOKENS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
)  # fmt: skip


def data_sets() -> dict[str, list[dict[str, str]]]:
    """The world's data sets in LLaMA-Factory's alpaca format, by file name.

    Held-out requests appear in the held-out sets alone.
    """
    rng = random.Random(SEED)
    requests = world.all_requests()
    rng.shuffle(requests)
    held_out, known = requests[:HELD_OUT], requests[HELD_OUT:]
    answered = [rng.choice(known) for _ in range(SFT_ANSWERS)]
    return {
        "sft": [{"instruction": r.text, "output": world.noisy_answer(r, rng)} for r in answered],
        "preferences": [_preference(request, rng) for request in known[:PREFERENCES]],
        "prompts": [{"instruction": request.text} for request in known[:PROMPTS]],
        "held_out": [{"instruction": request.text} for request in held_out],
        "held_out_preferences": [_preference(request, rng) for request in held_out],
    }


def _preference(request: world.Request, rng: random.Random) -> dict[str, str]:
    first = second = world.noisy_answer(request, rng)
    while second == first:
        second = world.noisy_answer(request, rng)
    if not world.prefers_first(request.text, first, second, rng):
        first, second = second, first
    return {"instruction": request.text, "chosen": first, "rejected": second}


def make_base(folder: Path, texts: list[str]) -> None:
    """A byte-level BPE tokenizer, so that any text encodes, and the configuration of a small Llama."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, bpe)
    begin, end = SPECIAL_TOKENS[:2]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=begin, eos_token=end, pad_token=end)
    fast.save_pretrained(folder)
    LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=VOCABULARY,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        dtype="float32",
    ).save_pretrained(folder)


def train(name: str, start: Path) -> None:
    """Train `name` (sft or dpo) from the model in `start` with the configuration beside this file."""
    config = yaml.safe_load((HERE / f"{name}.yaml").read_text())
    config |= {
        "model_name_or_path": str(start),
        "dataset_dir": str(ROOT / "data"),
        "output_dir": str(WORLD / f"{name}.partial"),
    }
    files.remove(WORLD / f"{name}.partial")
    trained = trainer.train(config, WORLD / "logs" / f"{name}.log", f"{name} model")
    trainer.collect(WORLD / f"{name}.partial", WORLD / name)
    say(f"{name:<10}trained on {trained.train_rows:,} rows, loss {trained.curves[-1]['loss']:.3f}", mark="+")


def main() -> None:
    os.environ["NPROC_PER_NODE"] = "1"  # so that the world is the same on any number of GPUs
    sources = {name: file_digest(HERE / name) for name in MADE_FROM}
    if files.read_json(WORLD / "sources.json") != sources:
        files.remove(WORLD)
        files.write_json(WORLD / "sources.json", sources)
    if (WORLD / "dpo").exists():
        return
    say("making the tiny world (once): data, tokenizer, SFT model, DPO model")
    data = data_sets()
    for name, rows in data.items():
        files.write_array(WORLD / f"{name}.json", rows)
    if not (WORLD / "sft").exists():
        texts = ["user", "assistant", "system", "\n\n", *(t for row in data["sft"] for t in row.values())]
        make_base(WORLD / "base", texts)
        train("sft", WORLD / "base")
    train("dpo", WORLD / "sft")


if __name__ == "__main__":
    run(main)
