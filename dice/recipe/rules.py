"""What a recipe's values must satisfy, and which keys of others follow from it."""

import functools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from dice.errors import SECRET_KEY
from dice.recipe.keys import Recipe, may_exist, resolve

REWARDS = ("implicit", "reward_model", "judge", "random")
ATTENTION = ("auto", "sdpa", "flash_attention_2", "flash_attention_3", "eager")

# LLaMA-Factory arguments that follow from the rest of the recipe, so nobody sets them by hand.
MANAGED_TRAIN_ARGS = {
    "do_train", "model_name_or_path", "adapter_name_or_path", "create_new_adapter", "ref_model",
    "ref_model_adapters", "ref_model_quantization_bit", "template", "cutoff_len", "dataset", "dataset_dir",
    "output_dir", "overwrite_output_dir", "resume_from_checkpoint", "run_name", "save_total_limit",
    "save_only_model", "load_best_model_at_end", "seed", "gradient_accumulation_steps", "trust_remote_code",
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
    "trust_remote_code": "trust_remote_code",
}
SAFE_FORMATS = (
    "safetensors",
    "fastsafetensors",
    "runai_streamer",
    "bitsandbytes",
    "dummy",
)  # vLLM's load_format

PASSED_ON = ("train.args", "score.reward_args", "generate.engine_args")  # to other programs, as they are
PATHS = (  # what names, or may name, a file or folder
    "policy", "reference", "run", "dataset_dir", "results_dir", "score.reward_model", "score.judge",
    "score.judge_prompt", "evaluate.judge",
)  # fmt: skip


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


def inside(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in a mapping or list, at any depth."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in pairs:
        dotted = f"{key}.{name}" if key else f"{name}"
        yield dotted, inner
        yield from inside(inner, dotted)


def _not_json(value: Any, key: str) -> str:
    """What to say of the first thing that JSON has no word for; empty where there is none."""
    for place, inner in [(key, value), *inside(value, key)]:
        if isinstance(inner, dict) and (odd := [name for name in inner if not isinstance(name, str)]):
            return f"{place} has the key {odd[0]!r}; a key must be text, in quotes"
        is_number = isinstance(inner, int) or (isinstance(inner, float) and math.isfinite(inner))
        if not is_number and not isinstance(inner, str | dict | list | None):
            return f"{place} is {inner!r:.80}; it must be text, a finite number, true, false or null"
    return ""


def _as_json(key: str) -> Rule:
    return Rule(
        key, lambda value, _: not _not_json(value, key), lambda recipe: _not_json(_get(recipe, key), key)
    )


def _without_secrets(key: str) -> Rule:
    return Rule(
        key,
        lambda value, _: not any(SECRET_KEY.search(place) for place, _ in inside(value)),
        f"{key}: a token or password would be written down with the results; set it in the environment",
    )


def _a_path(key: str) -> Rule:
    return Rule(
        key, lambda value, _: value is None or may_exist(resolve(value)), "no file can have such a name"
    )


def _managed(engine_args: dict[str, Any]) -> str:
    """What to say of the first of vLLM's options that is not for users to set; empty where there is none."""
    if engine_args.get("load_format", SAFE_FORMATS[0]) not in SAFE_FORMATS:
        return f"generate.engine_args: load_format must read no pickles, as {', '.join(SAFE_FORMATS)} do"
    names = [name for name in MANAGED_ENGINE_ARGS if name in engine_args]
    instead = MANAGED_ENGINE_ARGS[names[0]] if names else ""
    return f"generate.engine_args: {names[0]} follows from the recipe; use {instead}" if names else ""


RULES = (
    *map(_a_path, PATHS),
    *map(_as_json, PASSED_ON),
    *map(_without_secrets, PASSED_ON),
    Rule("run", lambda v, _: re.fullmatch(r"\w[\w.-]*", v), "a run's name has letters, digits, . _ -"),
    _at_least("rounds", 1),
    Rule("rounds", lambda v, _: v <= 1000, "it must be at most 1000"),
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


def _get(recipe: Recipe, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), recipe)


def broken_rules(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(key, message) for every value out of range."""
    for rule in RULES:
        value = _get(recipe, rule.key)
        if not rule.holds(value, recipe):
            wanted = rule.wanted(recipe) if callable(rule.wanted) else rule.wanted
            shown = "" if isinstance(value, dict) else f"{rule.key} is {value!r}; "
            yield rule.key, shown + wanted
