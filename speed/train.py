"""How fast DPO is on CPUs, in three ways: LLaMA-Factory's own, with a table of the reference, and in packs.

    python speed/train.py

Stock is LLaMA-Factory's DPO trainer, which keeps a reference model and computes its log-probs in every step.
The table is ours with `reference_logps: table` and `pack_tokens: off`; packs are ours with the table and
`pack_tokens: auto`. Our table is empty at the start, so the pre-pass computes every row; in a round of DICE
scoring has done most of that.

Each training is a process of its own, and the ways take turns, since a machine's speed drifts; of each step
the fastest counts, and of these the mean. Memory is what the training takes at its peak beyond the models,
gradients and optimizer states.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
from figures import Figure, report

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "llama-factory" / "src"), str(ROOT / "scripts" / "tiny")]

WORDS, VOCABULARY, LARGE_VOCABULARY, EPOCHS = 8_000, 8_000, 32_000, 1
TABLE = {"reference_logps": "table"}
WAYS = {
    "stock": ("LLaMA-Factory's DPO", {}),
    "table": ("with the table", TABLE),
    "packs": ("in packs", TABLE | {"pack_tokens": "auto"}),
}
TURNS = 2


@dataclass(frozen=True)
class Data:
    """Pairs of random words, each of about four tokens; a step has a batch of them."""

    steps: int
    pairs_per_step: int
    prompt: int  # words
    response: tuple[int, int]  # words, at least and at most

    def pairs(self) -> list[dict[str, str]]:
        rng = random.Random(0)

        def text(words: int) -> str:
            return " ".join(word(rng.randrange(WORDS)) for _ in range(words))

        return [
            {
                "instruction": text(self.prompt),
                "chosen": text(rng.randint(*self.response)),
                "rejected": text(rng.randint(*self.response)),
            }
            for _ in range(self.steps * self.pairs_per_step)
        ]


# A prompt is half of an answer. To read the first batch both ways is a small part of so many steps.
HALF = Data(steps=10, pairs_per_step=4, prompt=30, response=(30, 90))
ULTRAFEEDBACK = Data(steps=4, pairs_per_step=4, prompt=50, response=(25, 150))  # in tokens 200, 100 to 600
SHORT = Data(steps=2, pairs_per_step=4, prompt=30, response=(30, 90))


def word(number: int) -> str:
    return f"w{number}"


def make_model(folder: Path, vocabulary: int) -> None:
    """A Llama of 36 million random weights beside its vocabulary's, with a byte-level tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import prepare

    prepare.make_base(folder, ["user", "assistant", "system", "\n\n", *map(word, range(WORDS))])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=9,
        num_attention_heads=9,
        num_key_value_heads=9,
        max_position_embeddings=2048,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def write_pairs(folder: Path, rows: list[dict[str, str]]) -> None:
    """The pairs as a data set."""
    (folder / "pairs.json").write_text(json.dumps(rows))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"pairs": entry}))


def configuration(folder: Path, way: str, **changes: Any) -> dict[str, Any]:
    return {
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "full",
        "model_name_or_path": str(folder / "model"),
        "template": "llama3",
        "dataset": "pairs",
        "dataset_dir": str(folder),
        "output_dir": str(folder / way),
        "cutoff_len": 1024,
        "num_train_epochs": EPOCHS,
        "learning_rate": 1e-6,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_gradient_checkpointing": True,
        **changes,
        **WAYS[way][1],
    }


def train_once(folder: str, way: str, changes: str) -> dict[str, Any]:
    """One training: seconds of the pre-pass and of every step but the first, bytes beyond the models."""
    from transformers import TrainerCallback

    import train
    from dice.models.chat_template import register_templates
    from dice.models.llamafactory import llamafactory

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.begun, self.at, self.resident = 0.0, [], 0

        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            weights = sum(part.sum().item() * 0 + part.nbytes for part in model.parameters())  # all are read
            self.resident = memory("VmRSS") + 3 * int(weights)  # with gradients and two states
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            self.begun = time.perf_counter()

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.at.append(time.perf_counter())

    clock, config = Clock(), configuration(Path(folder), way, **json.loads(changes))
    if way == "stock":
        register_templates()
        llamafactory("train.tuner").run_exp(config, [clock])
    else:
        train.run(config, [clock])
    steps = [after - start for start, after in zip(clock.at, clock.at[1:], strict=False)]
    log = json.loads((Path(folder) / way / "trainer_state.json").read_text())["log_history"]
    return {
        "prepass": clock.at[0] - clock.begun,
        "steps": steps[1:],
        "memory": memory("VmHWM") - clock.resident,
        "loss": log[0]["loss"],
    }


def memory(name: str) -> int:
    """Of this process, in bytes: VmRSS is what is resident, VmHWM the most that was."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith(f"{name}:"))


def measure(folder: Path, data: Data, turns: int = TURNS, **changes: Any) -> dict[str, dict[str, float]]:
    """The best of each way's trainings; of a step, which has the same rows in all of them, the fastest.

    Of the step, the mean is under "step", in seconds; a whole epoch with its pre-pass is under "epoch".
    `changes` are made to the training's configuration.
    """
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    changes = {"per_device_train_batch_size": data.pairs_per_step, **changes}
    for way in [*WAYS] * turns:
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
        best[way]["epoch"] = best[way]["prepass"] + data.steps * best[way]["step"]
    for way, (title, _) in WAYS.items():
        run = best[way]
        before = "" if way == "stock" else f", {run['prepass']:.2f} s before the first"
        print(f"{title:<22}{run['step']:6.2f} s a step, {run['memory'] / 2**20:,.0f} MiB{before}", flush=True)
    return best


def ratio(best: dict[str, dict[str, float]], key: str, way: str = "packs") -> float:
    return best[way][key] / best["stock"][key]


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {}
        for kind, data, vocabulary in (
            ("half", HALF, VOCABULARY),
            ("ultrafeedback", ULTRAFEEDBACK, VOCABULARY),
            ("vocabulary", SHORT, LARGE_VOCABULARY),
        ):
            make_model(folder / "model", vocabulary)
            write_pairs(folder, data.pairs())
            print(
                f"{data.pairs_per_step} pairs a step, {4 * data.prompt} tokens a prompt, {vocabulary} known"
            )
            found[kind] = measure(folder, data, turns=1 if kind == "vocabulary" else TURNS)
    half, ultrafeedback, large = found.values()
    return report(
        [
            Figure(
                "time of a step over stock, prompts half as long as answers",
                ratio(half, "step"),
                at_most=0.45,
            ),
            Figure("the same with the table alone", ratio(half, "step", "table")),
            Figure(
                "time of an epoch over stock, with the pre-pass of all rows",
                ratio(half, "epoch"),
                at_most=0.6,
            ),
            Figure(
                "time of a step over stock, lengths of UltraFeedback",
                ratio(ultrafeedback, "step"),
                at_most=0.4,
            ),
            Figure("the same with the table alone", ratio(ultrafeedback, "step", "table")),
            Figure(
                "memory beyond the models over stock, vocabulary 32,000",
                ratio(large, "memory"),
                at_most=0.25,
            ),
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(train_once(*sys.argv[2:])))
    else:
        sys.exit(main())
