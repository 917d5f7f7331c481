"""A recipe: what a run does, as YAML plus `key=value`, typed and validated.

A recipe is a folder with `dice.yaml`, a plain LLaMA-Factory training file (`dpo.yaml`) and a README.
Any key can be overridden in OmegaConf's dot notation, `replay.gamma=0.25`. Under `train`, every key
that is not DICE's own is an argument of LLaMA-Factory: `train.learning_rate=1e-6`.

Unknown keys and values out of range are refused with the place they come from.
"""

import errno
import os
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "scripts" / "run_dice" / "recipes"


@dataclass
class Replay:
    """Experience replay: offline pairs mixed into each round (section 3.2 of the paper)."""

    dataset: str | None = None  # a preference set of dataset_info.json
    gamma: float = 0.5  # share of offline pairs in the mixture, 0 to 1


@dataclass
class Generate:
    """Sampling of K responses per prompt."""

    engine: str = "auto"  # hf, vllm, fake; auto is vllm where it is installed, else hf
    samples: int = 16  # K
    temperature: float = 0.9
    top_p: float = 1.0
    max_new_tokens: int = 2048
    max_model_len: int | None = None  # prompt plus response, in tokens; default: the model's own limit
    shard_size: int = 256  # prompts per shard: what a kill can cost, and what workers share out
    batch_tokens: int = 65536  # of prompts and responses that the hf engine's cache holds at once
    tensor_parallel: int = 1  # GPUs that a vLLM engine spreads its model over
    engine_args: dict[str, Any] = field(default_factory=dict)  # passed to vLLM as they are; not for hf


@dataclass
class Score:
    """Rewards, and where they come from."""

    reward: str = "implicit"  # implicit, reward_model, judge, random
    cutoff_len: int = 4096  # tokens of prompt plus response; longer ones are dropped, never cut
    batch_tokens: Any = "auto"  # tokens in one forward pass; auto finds how many the device can hold
    attn_implementation: str = "auto"  # auto: flash attention where it is installed, else sdpa
    quantization_bit: int | None = None  # 4 or 8: load the models with bitsandbytes
    reward_model: str = "train"  # train: one made of the offline pairs before round 1; else folder or Hub id
    # What its training file has otherwise than `train`; these rates are usual for reward models of 8B.
    reward_args: dict[str, Any] = field(default_factory=dict)
    judge: str = "policy"  # policy, a model's folder, or the name by which a server knows a model
    judge_prompt: str | None = None  # a text file with {prompt} and {response}, or a next turn; default: ours
    judge_samples: int = 3  # grades of a response, averaged
    judge_temperature: float = 0.7
    judge_max_tokens: int = 512  # of one answer of the judge
    judge_concurrency: int = 16  # requests that a worker has at a server at once
    judge_timeout: float = 120.0  # seconds that a server has for one answer


@dataclass
class Pair:
    """Filters, length balance, and the choice of chosen and rejected."""

    min_samples: int = 8  # scored responses a prompt needs
    min_chars: int = 4
    max_chars: int = 6699
    length: str = "chars"  # what alpha multiplies: chars or tokens
    alpha: Any = "auto"  # auto: balanced exactly; grid: the published sweep; or reward per character (token)
    rejected: str = "worst"  # worst, or random: any other sample of the prompt
    per_prompt: int = 1  # pairs of a prompt: best and worst, then best and worst of what is left, ...
    min_margin: float = 0.0  # of length-regularized reward, between chosen and rejected
    trl: bool = False  # export the data sets in TRL's format too


@dataclass
class Train:
    """DPO by LLaMA-Factory."""

    config: str = "dpo.yaml"  # a LLaMA-Factory training file beside the recipe
    global_batch_size: int = 32  # pairs per optimizer step, whatever the number of GPUs
    reference_logps: str = "table"  # table: no reference model in memory; model: LLaMA-Factory's own way
    args: dict[str, Any] = field(default_factory=dict)  # the file's contents and what overrides them


@dataclass
class Evaluate:
    """Held-out prompts, answered by every model of the run and judged."""

    prompts: str | None = None  # a prompt set of dataset_info.json; null: no evaluation
    judge: str | None = None  # path/to/file.py:function, called as f(prompt, response) -> quality
    samples: int = 4  # answers per prompt


@dataclass
class Recipe:
    """Everything a run depends on."""

    policy: str  # round 1's policy; a later round's is the model of the round before
    reference: str  # round 1's reference; a later round's is the policy of the round before
    template: str  # of LLaMA-Factory's registry, or llama3-custom, zephyr-custom
    prompts: str  # a prompt set of dataset_info.json
    run: str = "???"  # name of the run; default: the recipe's
    rounds: int = 2
    seed: int = 42
    dataset_dir: str = "data"  # the folder of dataset_info.json
    results_dir: str = "results"
    prepare: str | None = None  # a command that makes what the recipe needs, run before round 1
    report: bool = True  # whether the loop writes report.html, after each round and at its end
    trust_remote_code: bool = False  # run the Python code that a model's folder brings along
    dtype: str = "auto"  # of generation and scoring; auto: bfloat16 on GPUs, float32 on CPUs
    replay: Replay = field(default_factory=Replay)
    generate: Generate = field(default_factory=Generate)
    score: Score = field(default_factory=Score)
    pair: Pair = field(default_factory=Pair)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def run_dir(self) -> Path:
        return ROOT / self.results_dir / self.run


def resolve(path: str) -> Path:
    """A path of a recipe; relative ones are relative to the repository."""
    return ROOT / path


def may_exist(path: Path) -> bool:
    """Whether a file system takes such a path: nothing too long, no half characters, no zero bytes."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    except ValueError:
        return False
    return True


def recipe_names() -> list[str]:
    """Names of the recipes that come with DICE."""
    return sorted(path.parent.name for path in RECIPES.glob("*/dice.yaml"))


def known_keys(kind: type, prefix: str = "") -> list[str]:
    """Every key of a recipe in dot notation."""
    keys: list[str] = []
    for spec in fields(kind):
        nested = spec.default_factory if is_dataclass(spec.default_factory) else None
        keys += known_keys(nested, f"{prefix}{spec.name}.") if nested else [prefix + spec.name]
    return keys
