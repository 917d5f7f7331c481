"""How fast the stages are on a real language model: SmolLM2-135M-Instruct, on CPUs.

    python speed/real.py [FOLDER]

The model is that of the recipe smollm2, which is fetched on first use; FOLDER is another copy of it.
Sampling is compared with vLLM itself, scoring with bare forward passes over as many tokens, and training
with LLaMA-Factory's stock DPO, as in generate.py, score.py and train.py. All is in float32.
"""

import json
import os
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import generate
import score
from figures import Figure, report

import train

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts" / "instructions"))  # the world of the recipe smollm2

PROMPTS, K, MAX_NEW_TOKENS = 24, 8, 96
PROMPT_TOKENS, RESPONSE_TOKENS = 40, (40, 96)
TRAINED = train.Data(steps=5, pairs_per_step=4, prompt=0, response=(20, 60))  # prompts are the world's


def world(count: int) -> list[str]:
    """Prompts of the world of instructions."""
    from constraints import KINDS
    from prompts import write
    from topics import TOPICS

    return write(TOPICS, count, list(KINDS), 0.0, random.Random(0))


def sampling(model: Path, folder: Path) -> list[Figure]:
    from dice.recipe.groups import Generate

    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    options = Generate(samples=K, max_new_tokens=MAX_NEW_TOKENS, max_model_len=512, shard_size=8)
    ways = generate.Ways(folder, model, "smollm2", world(PROMPTS), options)
    best, _ = generate.measure(ways, "abba")
    return [
        Figure("sampled tokens/s", best["a"]),
        Figure("sampling, speed over bare vLLM", best["a"] / best["b"], at_least=0.95),
    ]


def scoring(model: Path) -> list[Figure]:
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    rows = score.make_rows(4, K, PROMPT_TOKENS, RESPONSE_TOKENS, vocabulary)
    found = score.compare(str(model), rows, "bcbc")
    ours, floor = (found[way]["seconds"] for way in "bc")
    return [
        Figure("scored tokens/s", score.distinct_tokens(rows) / ours),
        Figure("scoring, time over bare forward passes", ours / floor, at_most=1.25),
    ]


def pairs() -> list[dict[str, str]]:
    """As many as the steps of a training take: a prompt of the world, and words beside each other."""
    from topics import TOPICS

    rng, said = random.Random(0), " ".join(TOPICS).split()

    def response() -> str:
        return " ".join(rng.choices(said, k=rng.randint(*TRAINED.response)))

    prompts = world(TRAINED.steps * TRAINED.pairs_per_step)
    return [{"instruction": text, "chosen": response(), "rejected": response()} for text in prompts]


def training(model: Path, folder: Path) -> list[Figure]:
    from transformers import AutoTokenizer

    rows = pairs()
    train.write_pairs(folder, rows)
    best = train.measure(folder, TRAINED, model_name_or_path=str(model), template="smollm2")
    ours, stock = (best[way]["step"] for way in ("packs", "stock"))
    tokenizer = AutoTokenizer.from_pretrained(model)
    texts = [f"{row['instruction']} {row[side]}" for row in rows for side in ("chosen", "rejected")]
    tokens = sum(map(len, tokenizer(texts).input_ids)) / TRAINED.steps  # those of the template left out
    return [
        Figure("trained tokens/s", tokens / ours),
        Figure("training, time of a step over stock", ours / stock, at_most=0.45),
    ]


def main() -> int:
    import smollm2

    model = Path(sys.argv[1]) if sys.argv[1:] else ROOT / "data" / "smollm2" / "instruct"
    smollm2.make(model)
    with tempfile.TemporaryDirectory() as name:
        figures = scoring(model) + training(model, Path(name)) + sampling(model, Path(name))
    return report(figures)


if __name__ == "__main__":
    sys.exit(main())
