"""How close scoring comes to the speed limit, on CPUs.

    python speed/score.py

Log-probs of K responses to each of some prompts under one model, in three ways:

a) the plain pattern: one response at a time beside a padded dummy response, full float32 logits;
b) ours: `dice.inference.scorer.Scorer`;
c) the floor: bare forward passes of the blocks over the same distinct tokens (prompts once), and the
   head's matrix product for response tokens alone, both in the best of several batch shapes.

Each run is a process of its own: once to warm up, then REPEATS times. b and c take turns, since a
machine's speed drifts; the fastest of each way counts. Memory is the peak of the resident set beyond
what it was with the weights loaded, the largest of each way.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
from figures import Figure, report

if TYPE_CHECKING:
    import torch

PROMPTS, K, PROMPT_TOKENS, RESPONSE_TOKENS = 4, 16, 200, (100, 300)
VOCABULARY = 32_000
REPEATS = 2
TURNS = "abcbcb"
COUNTS = {"seconds": min, "memory": max}  # of several runs of the same way
WAYS = {"a": "the plain pattern", "b": "ours", "c": "the floor"}


def make_model(folder: str) -> None:
    """A Llama of 52 million random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1376,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def make_rows(
    prompts: int, responses: int, prompt_tokens: int, response_tokens: tuple[int, int], vocabulary: int
) -> list[tuple[list[int], list[int]]]:
    """Random (prompt ids, response ids), so many rows per prompt; lengths between the two given."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows = []
    for _ in range(prompts):
        prompt = rng.integers(3, vocabulary, prompt_tokens).tolist()
        for length in rng.integers(response_tokens[0], response_tokens[1] + 1, responses):
            rows.append((prompt, rng.integers(3, vocabulary, length).tolist()))
    return rows


def loaded(model: "torch.nn.Module") -> "torch.nn.Module":
    """The model, its weights read from disk to the last page."""
    for weights in model.parameters():
        weights.sum()
    return model


def plain(folder: str, rows: list) -> Callable[[], list[float]]:
    import torch

    from dice.models.loading import Options, load_model

    model = loaded(load_model(folder, Options("float32")))

    @torch.inference_mode()
    def score() -> list[float]:
        sums = []
        for prompt, response in rows:
            width = len(prompt) + len(response)
            ids = torch.zeros((2, width), dtype=torch.long)  # the dummy: the prompt and one token
            real = torch.zeros((2, width), dtype=torch.long)
            for row, answer in enumerate((response, response[:1])):
                end = len(prompt) + len(answer)
                ids[row, :end], real[row, :end] = torch.tensor(prompt + answer), 1
            logits = model(input_ids=ids, attention_mask=real, use_cache=False).logits.float()
            logps = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
            is_response = real[:, 1:].bool() & (torch.arange(1, width) >= len(prompt))
            sums.append(float((logps * is_response).sum(1)[0]))
        return sums

    return score


def ours(folder: str, rows: list) -> Callable[[], list[float]]:
    from dice.inference.scorer import Options, Scorer

    scorer = Scorer(Options(dtype="float32"))
    scorer.use(folder)
    loaded(scorer.models.use(folder))
    return lambda: [float(logps.sum(dtype=float)) for logps in scorer.token_logps(rows)]


def distinct_tokens(rows: list) -> int:
    """Tokens of all responses, and of every prompt once."""
    return sum(len(response) for _, response in rows) + sum(map(len, {tuple(prompt) for prompt, _ in rows}))


def floor(folder: str, rows: list) -> Callable[[], list[float]]:
    import torch

    from dice.models.loading import Options, load_model

    model = loaded(load_model(folder, Options("float32")))
    responses, tokens = sum(len(response) for _, response in rows), distinct_tokens(rows)
    states = torch.randn(responses, model.config.hidden_size)

    @torch.inference_mode()
    def blocks(height: int, width: int, count: int) -> None:
        for size in [height * width] * (count // (height * width)) + [count % (height * width)]:
            ids = torch.randint(3, model.config.vocab_size, (max(1, size // width), min(size, width)))
            model.model(input_ids=ids, use_cache=False)

    @torch.inference_mode()
    def head(size: int, count: int) -> None:
        for part in states[:count].split(size):
            model.lm_head(part)

    def fastest(run: Callable, shapes: list[tuple]) -> tuple:
        """The shape that takes the least time for a part of the work."""
        seconds = {shape: [] for shape in shapes}
        for _ in range(REPEATS):
            for shape in shapes:
                begun = time.perf_counter()
                run(*shape, responses // 4)
                seconds[shape].append(time.perf_counter() - begun)
        return min(shapes, key=lambda shape: min(seconds[shape]))

    shape = fastest(blocks, [(height, width) for width in (128, 200, 400) for height in (2, 4, 8, 16)])
    size = fastest(head, [(size,) for size in (64, 128, 256, 512, 1024)])

    def score() -> list[float]:
        blocks(*shape, tokens)
        head(*size, responses)
        return []

    return score


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def measure(way: str, folder: str, rows: list) -> None:
    """In a child: print seconds, peak memory beyond the weights in MiB, and the sums."""
    score = {"a": plain, "b": ours, "c": floor}[way](folder, rows)
    weights = resident("VmRSS")
    sums = score()
    seconds = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        sums = score()
        seconds.append(time.perf_counter() - begun)
    print(json.dumps({"seconds": min(seconds), "memory": resident("VmHWM") - weights, "sums": sums}))


def compare(folder: str, rows: list, turns: str) -> dict[str, dict[str, Any]]:
    """The best of each way's runs; they take turns, and each is a process of its own."""
    found = {}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(rows, file)
        file.flush()
        for way in turns:
            child = [sys.executable, __file__, way, folder, file.name]
            run = json.loads(
                subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1]
            )
            before = found.setdefault(way, run)
            found[way] = {**run, **{key: pick(before[key], run[key]) for key, pick in COUNTS.items()}}
    tokens = distinct_tokens(rows)
    for way, name in WAYS.items():
        if way in found:
            seconds, memory = found[way]["seconds"], found[way]["memory"]
            speed = f"{tokens / seconds:6,.0f} tokens/s"
            print(f"{way}) {name:<17} {seconds:6.2f} s, {speed}, {memory:5.0f} MiB beyond the weights")
    return found


def main() -> int:
    rows = make_rows(PROMPTS, K, PROMPT_TOKENS, RESPONSE_TOKENS, VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        found = compare(folder, rows, TURNS)
    apart = max(abs(a / b - 1) for a, b in zip(found["a"]["sums"], found["b"]["sums"], strict=True))
    a, b, c = (found[way] for way in WAYS)
    figures = [
        Figure("speed of ours over the plain pattern", a["seconds"] / b["seconds"], at_least=4),
        Figure("time of ours over the floor", b["seconds"] / c["seconds"], at_most=1.25),
        Figure("memory of ours over the plain pattern", b["memory"] / a["memory"], at_most=0.25),
        Figure(f"largest relative difference of {len(rows)} sums", apart, at_most=1e-5),
    ]
    return report(figures)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(*sys.argv[1:3], json.loads(Path(sys.argv[3]).read_text()))
    else:
        sys.exit(main())
