"""A recipe: what a run does, as YAML plus `key=value`, typed and validated.

A recipe is a folder with `dice.yaml`, a plain LLaMA-Factory training file (`dpo.yaml`) and a README.
Any key can be overridden in OmegaConf's dot notation, `replay.gamma=0.25`. Under `train`, every key
that is not DICE's own is an argument of LLaMA-Factory: `train.learning_rate=1e-6`.

Unknown keys and values out of range are refused with the place they come from.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ROOT / "scripts" / "run_dice" / "recipes"

REWARDS = ("implicit", "reward_model", "judge", "random")
ATTENTION = ("auto", "sdpa", "flash_attention_2", "flash_attention_3", "eager")

# LLaMA-Factory arguments that follow from the rest of the recipe, so nobody sets them by hand.
MANAGED_TRAIN_ARGS = {
    "do_train", "model_name_or_path", "adapter_name_or_path", "create_new_adapter", "ref_model",
    "ref_model_adapters", "ref_model_quantization_bit", "template", "cutoff_len", "dataset", "dataset_dir",
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name", "save_total_limit",
    "save_only_model", "load_best_model_at_end", "seed", "gradient_accumulation_steps",
}  # fmt: skip

# Options of vLLM that the rest of the recipe settles, and what to use instead.
MANAGED_ENGINE_ARGS = {
    "model": "policy",
    "tokenizer": "policy",
    "skip_tokenizer_init": "template",
    "runner": "policy",
    "generation_config": "the other keys of generate",
    "tensor_parallel_size": "generate.tensor_parallel",
    "data_parallel_size": "NPROC_PER_NODE",
    "enable_lora": "policy",
    "max_model_len": "generate.max_model_len",
    "dtype": "dtype",
}


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

    @property
    def unit(self) -> str:
        """What rewards are counted in."""
        return {"implicit": "nats", "judge": "grades"}.get(self.reward, "points")


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


@dataclass(frozen=True)
class Rule:
    """What a key's value must satisfy; `wanted` ends the sentence "KEY is VALUE; ..."."""

    key: str
    holds: Callable[[Any, Recipe], bool]
    wanted: str | Callable[[Recipe], str]


def _one_of(key: str, *names: str) -> Rule:
    return Rule(key, lambda value, _: value in names, f"there are {', '.join(names)}")


def _at_least(key: str, least: int) -> Rule:
    return Rule(key, lambda value, _: value is None or value >= least, f"it must be at least {least}")


def _is_alpha(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value in ("auto", "grid") or (number and math.isfinite(value))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _managed(engine_args: dict[str, Any]) -> str:
    """What to say of the first of vLLM's options that is not for users to set; empty where there is none."""
    names = [name for name in MANAGED_ENGINE_ARGS if name in engine_args]
    instead = MANAGED_ENGINE_ARGS[names[0]] if names else ""
    return f"generate.engine_args: {names[0]} follows from the recipe; use {instead}" if names else ""


RULES = (
    Rule("run", lambda v, _: re.fullmatch(r"\w[\w.-]*", v), "a run's name has letters, digits, . _ -"),
    _at_least("rounds", 1),
    _at_least("seed", 0),
    _one_of("dtype", "auto", "float32", "bfloat16", "float16"),
    Rule("replay.gamma", lambda v, _: 0 <= v <= 1, "it must be between 0 and 1"),
    Rule(
        "replay.dataset",
        lambda v, r: v or r.replay.gamma == 0,
        lambda r: f"with replay.gamma {r.replay.gamma} it must name a preference set",
    ),
    _one_of("generate.engine", "auto", "hf", "vllm", "fake"),
    Rule("generate.samples", lambda v, _: v >= 2, "a pair needs at least 2 samples of a prompt"),
    Rule(
        "generate.temperature",
        lambda v, _: 0 < v <= 2,
        "it must be above 0, or all samples agree, and at most 2, which is vLLM's limit",
    ),
    Rule("generate.top_p", lambda v, _: 0 < v <= 1, "it must be above 0 and at most 1"),
    _at_least("generate.max_new_tokens", 1),
    _at_least("generate.max_model_len", 2),
    _at_least("generate.shard_size", 1),
    _at_least("generate.batch_tokens", 1),
    _at_least("generate.tensor_parallel", 1),
    Rule(
        "generate.tensor_parallel",
        lambda v, r: v == 1 or r.generate.engine in ("vllm", "auto"),
        lambda r: f"only vllm does that; generate.engine is {r.generate.engine}",
    ),
    Rule("generate.engine_args", lambda v, _: not _managed(v), lambda r: _managed(r.generate.engine_args)),
    _one_of("score.reward", *REWARDS),
    _at_least("score.cutoff_len", 2),
    Rule(
        "score.batch_tokens",
        lambda v, _: v == "auto" or _is_count(v),
        "it must be auto or a whole number of at least 1",
    ),
    _one_of("score.attn_implementation", *ATTENTION),
    Rule("score.quantization_bit", lambda v, _: v in (None, 4, 8), "it must be null, 4 or 8"),
    Rule(
        "score.reward_model",
        lambda v, r: v != "train" or r.score.reward != "reward_model" or r.replay.dataset,
        "replay.dataset must name the preference set to train it on",
    ),
    _at_least("score.judge_samples", 1),
    Rule(
        "score.judge_temperature",
        lambda v, r: 0 <= v <= 2 and (v > 0 or r.score.judge_samples == 1),
        "it must be at most 2 and above 0, or all samples agree",
    ),
    _at_least("score.judge_max_tokens", 1),
    _at_least("score.judge_concurrency", 1),
    Rule("score.judge_timeout", lambda v, _: 0 < v < math.inf, "it must be above 0, in seconds"),
    Rule(
        "pair.min_samples",
        lambda v, r: 2 <= v <= r.generate.samples,
        lambda r: f"it must be between 2 and generate.samples, which is {r.generate.samples}",
    ),
    Rule(
        "pair.min_chars",
        lambda v, r: v <= r.pair.max_chars,
        lambda r: f"it must not be above pair.max_chars, which is {r.pair.max_chars}",
    ),
    _one_of("pair.length", "chars", "tokens"),
    Rule("pair.alpha", lambda v, _: _is_alpha(v), "it must be auto, grid or a number: reward per character"),
    _one_of("pair.rejected", "worst", "random"),
    Rule(
        "pair.per_prompt",
        lambda v, r: 1 <= v <= r.generate.samples // 2,
        lambda r: f"it must be between 1 and half of generate.samples, {r.generate.samples // 2}",
    ),
    Rule("pair.min_margin", lambda v, _: 0 <= v < math.inf, "it must be at least 0"),
    _at_least("train.global_batch_size", 1),
    _one_of("train.reference_logps", "table", "model"),
    Rule("train.args", lambda v, _: v.get("stage") == "dpo", "train: stage must be dpo"),
    Rule(
        "train.args",
        lambda v, _: v.get("finetuning_type") in ("full", "freeze", "lora"),
        "train: finetuning_type must be full, freeze or lora",
    ),
    Rule(
        "train.args",
        lambda v, _: _is_count(v.get("per_device_train_batch_size", 1)),
        "train: per_device_train_batch_size must be a whole number of at least 1",
    ),
    _at_least("evaluate.samples", 1),
    Rule(
        "evaluate.judge",
        lambda v, r: bool(v) == bool(r.evaluate.prompts),
        "evaluate.prompts and evaluate.judge go together",
    ),
)


def broken_rules(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(key, message) for every value out of range."""
    for rule in RULES:
        value: Any = recipe
        for part in rule.key.split("."):
            value = getattr(value, part)
        if not rule.holds(value, recipe):
            wanted = rule.wanted(recipe) if callable(rule.wanted) else rule.wanted
            shown = "" if isinstance(value, dict) else f"{rule.key} is {value!r}; "
            yield rule.key, shown + wanted
