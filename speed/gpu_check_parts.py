"""The parts of gpu_check.py. Each yields lines: what was measured, its value and unit.

    python speed/gpu_check_parts.py PART FOLDER FILE      (lines are appended to FILE as JSON)

FOLDER holds the model, which the first part that needs it makes. `flops` of a line are floating-point
operations a second that the work needs, in `dtype`.
"""

import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "llama-factory" / "src"), str(ROOT / "scripts" / "tiny")]

Lines = Iterator[dict[str, Any]]
# Shape of the model, and the work: on a GPU, on a CPU.
SHAPES = {
    "cuda": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16, "vocab_size": 32_000},
    "cpu": {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "vocab_size": 2_000},
}
PROMPTS = {"cuda": 16, "cpu": 2}
STEPS, PAIRS = 4, {"cuda": 8, "cpu": 2}
# What torchrun would tell: LLaMA-Factory takes DeepSpeed under it alone.
ONLY_WORKER = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
ONLY_WORKER |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


def line(what: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, **more}


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype() -> str:
    return "bfloat16" if device() == "cuda" else "float32"


def seconds_of(run: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of some runs, after one to warm up."""
    import torch

    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        run()
        if device() == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def model(folder: Path) -> str:
    """A Llama of random weights, saved as they are computed with, and a tokenizer of bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import prepare

    made, partial = folder / "model", folder / "model.partial"
    if not made.exists():
        prepare.make_base(partial, ["user", "assistant", "system", "\n\n"])
        torch.manual_seed(0)
        heads = 16 if device() == "cuda" else 4
        shape = SHAPES[device()] | {"num_attention_heads": heads, "num_key_value_heads": heads // 2}
        config = LlamaConfig(**shape, bos_token_id=0, eos_token_id=1, pad_token_id=1)
        with torch.device(device()):
            LlamaForCausalLM(config).to(getattr(torch, dtype())).save_pretrained(partial)
        partial.rename(made)
    return str(made)


def parameters(folder: Path) -> int:
    """Weights that a token is multiplied with: all but the embedding."""
    from safetensors import safe_open

    with safe_open(folder / "model" / "model.safetensors", "np") as weights:
        shapes = [weights.get_slice(name).get_shape() for name in weights.keys() if "embed" not in name]  # noqa: SIM118
    return sum(math.prod(shape) for shape in shapes)


def machine(folder: Path) -> Lines:
    """The device, and versions."""
    import torch

    from dice.run.manifests import commit, versions

    name = torch.cuda.get_device_name() if device() == "cuda" else "no GPU: measured on the CPU"
    known = {"device": name, "cuda": torch.version.cuda, "commit": commit()}
    if device() == "cuda":
        known["memory"] = torch.cuda.get_device_properties(0).total_memory
    yield {"versions": known | versions()}


def matrix(folder: Path) -> Lines:
    """The rate of a large matrix product, which all shares are of."""
    import torch

    size = 8192 if device() == "cuda" else 1024
    for name in dict.fromkeys((dtype(), "float32")):
        square = torch.randn(size, size, device=device(), dtype=getattr(torch, name))
        rate = 2 * size**3 / seconds_of(lambda square=square: square @ square, repeats=10)
        yield line(f"{name}, {size:,} squared", rate / 1e12, "TFLOP/s", flops=rate, dtype=name)


def score(folder: Path) -> Lines:
    """Log-probs by the packed reader: against plain float32, and how fast, with each attention there is."""
    import numpy as np
    import torch
    from score import make_rows

    from dice.inference.scorer import Options, Scorer
    from dice.models.loading import attention_choices

    name, (low, high) = model(folder), (100, 300)
    rows = make_rows(PROMPTS[device()], 8, 200, (low, high), SHAPES[device()]["vocab_size"])
    expected = plain_float32(name, rows[:8])
    flash = [found for found in attention_choices(Options(dtype())) if found]
    if not flash:
        why = "it is not installed, or not for this GPU" if device() == "cuda" else "there is no GPU"
        yield {"skipped": f"flash attention: {why}"}
    tokens = sum(len(response) for _, response in rows)
    distinct = tokens + PROMPTS[device()] * 200
    for attention in [*flash, "sdpa"]:
        scorer = Scorer(Options(dtype(), attention))
        scorer.use(name)
        apart = np.abs(np.concatenate(scorer.token_logps(rows[:8])) - expected)
        kind = f"{attention}, {dtype()}, {type(scorer._reader).__name__}"
        yield line(f"{kind}: mean distance from plain float32", float(apart.mean()), "nats a token")
        yield line(f"{kind}: the farthest token", float(apart.max()), "nats")
        took = seconds_of(lambda scorer=scorer: scorer.token_logps(rows))
        done = 2 * parameters(folder) * distinct / took
        yield line(f"{kind}: response tokens", tokens / took, "a second", flops=done, dtype=dtype())
        if device() == "cuda":
            yield line(f"{kind}: memory", torch.cuda.max_memory_allocated() / 2**30, "GiB at the peak")
        del scorer


def plain_float32(name: str, rows: list) -> Any:
    """Log-probs of all response tokens, one row after the other, by the model itself."""
    import numpy as np
    import torch

    from dice.models.loading import Options, load_model

    loaded, found = load_model(name, Options("float32", "eager")), []
    with torch.inference_mode():
        for prompt, response in rows:
            ids = torch.tensor([prompt + response], device=loaded.device)
            logits = loaded(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
            wanted = ids[0, len(prompt) :, None]
            found.append(logits.log_softmax(-1).gather(1, wanted).squeeze(1).cpu().numpy())
    return np.concatenate(found)


def sample(engine: str) -> Callable[[Path], Lines]:
    """A part that samples with an engine."""

    def part(folder: Path) -> Lines:
        from dice.inference.load import load_sampler
        from dice.inference.sampler import Request
        from dice.recipe.groups import Generate

        if not importlib.util.find_spec({"hf": "transformers"}.get(engine, engine)):
            yield {"skipped": f"{engine} is not installed"}
            return
        options = Generate(samples=8, max_new_tokens=64, max_model_len=512)
        sampler = load_sampler(engine)(model(folder), [1], options, dtype())
        requests = [Request(str(n), [*range(10, 74)], seed=n) for n in range(PROMPTS[device()])]
        list(sampler.sample(requests[:1]))  # to warm up
        begun = time.perf_counter()
        answers = list(sampler.sample(requests))
        took = time.perf_counter() - begun
        assert len(answers) == 8 * len(requests), f"{len(answers)} answers"
        tokens = sum(len(answer.response_ids) for answer in answers)
        yield line(f"{dtype()}, {len(answers)} answers: tokens", tokens / took, "a second")

    return part


def train(reference: str, kind: str, deepspeed: str = "") -> Callable[[Path], Lines]:
    """A part that makes some steps of DPO; the first loss must be log 2."""

    def part(folder: Path) -> Lines:
        for needed in ("llamafactory", *(["deepspeed"] if deepspeed else [])):
            if not importlib.util.find_spec(needed):
                yield {"skipped": f"{needed} is not installed"}
                return
        if deepspeed and device() == "cpu":
            yield {"skipped": "no GPU"}
            return
        import train as trainer  # llama-factory/src/train.py

        config = settings(folder, f"{reference}-{kind}{deepspeed}", kind)
        config |= {"reference_logps": reference}
        if deepspeed:
            os.environ.update(ONLY_WORKER)
            config["deepspeed"] = str(ROOT / "llama-factory" / "examples" / "deepspeed" / f"{deepspeed}.json")
        clock = make_clock()
        trainer.run(config, [clock])
        history = json.loads((Path(config["output_dir"]) / "trainer_state.json").read_text())["log_history"]
        losses = [entry["loss"] for entry in history if "loss" in entry]
        yield line("loss of the first step, less log 2", losses[0] - math.log(2), "nats")
        took = min(after - start for start, after in zip(clock.at[1:], clock.at[2:], strict=False))
        yield line(f"a step of {PAIRS[device()]} pairs", took, "s")

    return part


def make_clock() -> Any:
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        at: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

    return Clock()


def settings(folder: Path, name: str, kind: str) -> dict[str, Any]:
    """A LLaMA-Factory training of STEPS steps, on pairs that are made here."""
    words = 40 if device() == "cuda" else 8
    rows = [
        {
            "instruction": f"Name {n} animals.",
            "chosen": f"cat {n}, " * words,
            "rejected": f"dog {n}. " * words,
        }
        for n in range(STEPS * PAIRS[device()])
    ]
    (folder / "pairs.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    return {
        "stage": "dpo", "do_train": True, "finetuning_type": kind, "model_name_or_path": model(folder),
        "output_dir": str(folder / name), "template": "llama3", "dataset": "pairs",
        "dataset_dir": str(folder),
        "cutoff_len": 1024, "per_device_train_batch_size": PAIRS[device()], "num_train_epochs": 1,
        "learning_rate": 1e-6, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
        "bf16": device() == "cuda", "overwrite_output_dir": True,
    }  # fmt: skip


PARTS: dict[str, Callable[[Path], Lines]] = {
    "machine": machine,
    "matrix": matrix,
    "score": score,
    "hf": sample("hf"),
    "vllm": sample("vllm"),
    "train table full": train("table", "full"),
    "train model full": train("model", "full"),
    "train table lora": train("table", "lora"),
    "train model lora": train("model", "lora"),
    "train zero3": train("table", "full", "zero3"),
}


def main(part: str, folder: str, file: str) -> None:
    with open(file, "a", encoding="utf-8") as found:
        try:
            for new in PARTS[part](Path(folder)):
                found.write(json.dumps(new) + "\n")
                found.flush()
        except ModuleNotFoundError as error:
            found.write(json.dumps({"skipped": f"no package {error.name!r}"}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
