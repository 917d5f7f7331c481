"""How fast scoring is on a GPU, for a model of Llama-3-8B's shape with random weights.

    python speed/score_gpu.py

K = 16 responses of about 350 tokens to each of some prompts of 200 tokens, in bfloat16. Prints tokens
per second and the share of the chip's matrix rate: the floating-point operations that the distinct
tokens need (prompts once, the head for response tokens alone), by the time they took, over the rate of
a large bfloat16 matrix product measured in the same run. Without a CUDA device it says so and ends.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
from score import make_rows

PROMPTS, K, PROMPT_TOKENS, RESPONSE_TOKENS = 16, 16, 200, (250, 450)
VOCABULARY = 128_256


def make_model(folder: str) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        rope_theta=500_000.0,
        dtype="bfloat16",
    )
    with torch.device("cuda"):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def seconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of some runs, after one to warm up."""
    import torch

    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        run()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def operations(rows: list, parameters: int) -> float:
    """Floating-point operations of the distinct tokens: 2 per weight and token, and attention."""
    width, layers = 4096, 32
    head = VOCABULARY * width
    blocks = parameters - 2 * head  # neither the embedding, which is looked up, nor the head
    responses = sum(len(response) for _, response in rows)
    tokens = responses + PROMPTS * PROMPT_TOKENS
    # A token's query meets the keys before it, twice (scores and values), 2 operations each.
    met = sum(len(r) * (PROMPT_TOKENS + len(r) / 2) for _, r in rows) + PROMPTS * PROMPT_TOKENS**2 / 2
    return 2 * blocks * tokens + 2 * head * responses + 4 * width * layers * met


def main() -> None:
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device here: nothing was measured")
        return
    from dice.inference.scorer import Options, Scorer

    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    rate = 2 * 8192**3 / seconds(lambda: matrix @ matrix, repeats=20)
    scorer = Scorer(Options(dtype="bfloat16"))
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        torch.cuda.empty_cache()
        scorer.use(folder)
        model = scorer.models.use(folder)
    rows = make_rows(PROMPTS, K, PROMPT_TOKENS, RESPONSE_TOKENS, VOCABULARY)
    tokens = sum(len(response) for _, response in rows)
    torch.cuda.reset_peak_memory_stats()
    weights = torch.cuda.memory_allocated()
    took = seconds(lambda: scorer.token_logps(rows))
    done = operations(rows, sum(weights.numel() for weights in model.parameters())) / took
    peak = torch.cuda.max_memory_allocated() - weights
    print(f"device: {torch.cuda.get_device_name()}, {rate / 1e12:.0f} TFLOP/s in a large matrix product")
    print(f"attention: {scorer._reader.attention}; {scorer.budget.tokens:,} tokens per forward pass")
    print(f"response tokens per second: {tokens / took:,.0f}")
    print(f"memory beyond the weights: {peak / 2**30:.1f} GiB")
    print(f"share of the chip's matrix rate: {done / rate:.1%}")


if __name__ == "__main__":
    main()
