"""What the table of reference log-probs saves in DPO, on CPUs.

    python speed/train.py

The same training twice: by LLaMA-Factory's stock DPO trainer, which keeps a reference model and computes
its log-probs in every step, and by ours with `reference_logps: table`. Our table is empty at the start, so
the pre-pass computes every row; in a round of DICE scoring has done most of that.

Each training is a process of its own, and they take turns, since a machine's speed drifts; of each step
the fastest counts, and of these the mean. Memory is the peak of the resident set, the smallest of each
way, and compared with the size of the model's weights.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
from figures import Figure, report

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "llama-factory" / "src"), str(ROOT / "scripts" / "tiny")]

VOCABULARY, STEPS, PAIRS_PER_STEP, EPOCHS = 8_000, 6, 2, 1
WORDS = (40, 40)  # of a prompt, of a response on average
TURNS = ("stock", "ours", "stock", "ours")
WAYS = {"stock": "LLaMA-Factory's DPO", "ours": "with the table"}


def make_model(folder: Path) -> None:
    """A Llama of 45 million random weights, with a byte-level tokenizer of 512 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import prepare

    prepare.make_base(folder, ["user", "assistant", "system", "\n\n", *map(word, range(VOCABULARY))])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=9,
        num_attention_heads=9,
        num_key_value_heads=9,
        max_position_embeddings=2048,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def word(number: int) -> str:
    return f"w{number}"


def make_pairs() -> list[dict[str, str]]:
    """Pairs of random words."""
    rng = random.Random(0)

    def text(words: int) -> str:
        return " ".join(word(rng.randrange(VOCABULARY)) for _ in range(words))

    return [
        {
            "instruction": text(WORDS[0]),
            "chosen": text(rng.randint(WORDS[1] // 2, WORDS[1] * 3 // 2)),
            "rejected": text(rng.randint(WORDS[1] // 2, WORDS[1] * 3 // 2)),
        }
        for _ in range(STEPS * PAIRS_PER_STEP)
    ]


def write_pairs(folder: Path, rows: list[dict[str, str]]) -> None:
    """The pairs as a data set."""
    (folder / "pairs.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"pairs": entry}))


def configuration(folder: Path, way: str, **changes: Any) -> dict[str, Any]:
    config = {
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": str(folder / "model"),
        "template": "llama3",
        "dataset": "pairs",
        "dataset_dir": str(folder),
        "output_dir": str(folder / way),
        "cutoff_len": 1024,
        "per_device_train_batch_size": PAIRS_PER_STEP,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-6,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_gradient_checkpointing": True,
    }
    return config | changes | ({"reference_logps": "table"} if way == "ours" else {})


def train_once(folder: str, way: str, changes: str) -> dict[str, float]:
    """One training: seconds of the pre-pass and of every step but the first, bytes at the peak."""
    from transformers import TrainerCallback

    import train
    from dice.models.chat_template import register_templates
    from dice.models.llamafactory import llamafactory

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.begun, self.at = 0.0, []

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begun = time.perf_counter()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

    clock, config = Clock(), configuration(Path(folder), way, **json.loads(changes))
    if way == "ours":
        train.run(config, [clock])
    else:
        register_templates()
        llamafactory("train.tuner").run_exp(config, [clock])
    steps = [after - start for start, after in zip(clock.at, clock.at[1:], strict=False)]
    return {
        "prepass": clock.at[0] - clock.begun,
        "steps": steps[1:],
        "memory": peak_memory(),
    }


def peak_memory() -> int:
    """VmHWM of this process in bytes: the most that was ever resident."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def measure(folder: Path, **changes: Any) -> dict[str, dict[str, float]]:
    """The best of each way's trainings; of a step, which has the same rows in all of them, the fastest.

    Of the step, the mean is under "step", in seconds. `changes` are made to the training's configuration.
    """
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for way in TURNS:
        shutil.rmtree(folder / way, ignore_errors=True)
        command = [sys.executable, __file__, "--one", str(folder), way, json.dumps(changes)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            sys.exit(result.stderr[-3000:])
        runs[way].append(json.loads(result.stdout.splitlines()[-1]))
    best = {}
    for way, found in runs.items():
        fastest = [min(same) for same in zip(*(run["steps"] for run in found), strict=True)]
        best[way] = {key: min(run[key] for run in found) for key in ("prepass", "memory")}
        best[way]["step"] = sum(fastest) / len(fastest)
    for way, title in WAYS.items():
        run = best[way]
        before = f", {run['prepass']:.2f} s before the first" if way == "ours" else ""
        print(f"{title:<22}{run['step']:6.2f} s a step, {run['memory'] / 2**20:,.0f} MiB{before}")
    return best


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_model(folder / "model")
        write_pairs(folder, make_pairs())
        weights = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors"))
        best = measure(folder)
    stock, ours = best["stock"], best["ours"]
    print(f"{'the weights':<22}{weights / 2**20:,.0f} MiB")
    epoch = STEPS * ours["step"] + ours["prepass"]
    return report(
        [
            Figure("time of a step, ours over stock", ours["step"] / stock["step"], at_most=0.8),
            Figure("time of one epoch, pre-pass of all rows included", epoch / (STEPS * stock["step"])),
            Figure(
                "peak memory saved, in models", (stock["memory"] - ours["memory"]) / weights, at_least=0.8
            ),
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(train_once(*sys.argv[2:])))
    else:
        sys.exit(main())
