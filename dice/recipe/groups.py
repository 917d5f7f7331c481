"""The keys of a recipe's groups: each with its type, bounds, default and meaning.

`dice.recipe.keys` puts the groups together. Under `train`, every key that is not DICE's own is an argument of
LLaMA-Factory: `train.learning_rate=1e-6`.
"""

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from dice.errors import spelled
from dice.recipe.paths import is_function, may_exist, resolve
from dice.recipe.train_args import refusal
from dice.recipe.values import Count, Number, PassedOn, Real, Text, Whole, read_as, require

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
    "logprobs_mode": "score.policy_logps",
    "trust_remote_code": "trust_remote_code",
}
# Values of vLLM's load_format with which it reads no pickles.
SAFE_FORMATS = ("safetensors", "fastsafetensors", "runai_streamer", "bitsandbytes", "dummy")


def _may_be_a_path(text: str) -> str:
    require(may_exist(resolve(text)), "", f"is {text!r:.80}; no file can have such a name")
    return text


MaybePath = Annotated[Text, AfterValidator(_may_be_a_path)]  # it names a file or folder, or may do so


def _yaml_off(value: Any) -> Any:
    return "off" if value is False else value  # which YAML reads the word as


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


REWARDS = ("implicit", "reward_model", "judge", "random")


def _is_source(name: str) -> str:
    wanted = f"{', '.join(map(repr, REWARDS))} or path/to/file.py:function"
    require(name in REWARDS or is_function(name), "", f"is {name!r:.80}; it must be {wanted}")
    return name


class Group(BaseModel):
    """Some keys of a recipe. They are checked when it is read, not where code sets them on a copy."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    later: ClassVar[tuple[str, ...]] = ()  # keys that recipes of earlier versions do not have

    def said(self, *names: str) -> dict[str, Any]:
        """Those of some keys that do not have their defaults."""
        fields = type(self).model_fields
        return {name: value for name in names if (value := getattr(self, name)) != fields[name].default}

    def settings(self) -> dict[str, Any]:
        """The group for a manifest; a later key that has its default is left out, as in earlier runs."""
        return self.model_dump(exclude={*self.later}) | self.said(*self.later)


class Replay(Group):
    """Experience replay: offline pairs mixed into each round (section 3.2 of the paper)."""

    dataset: Text | None = None  # a preference set of dataset_info.json
    gamma: Real = Field(0.5, ge=0, le=1)  # share of offline pairs in the mixture
    # Which offline pairs: any, or those with the largest or the smallest margin of implicit reward.
    select: Literal["random", "top", "bottom"] = "random"
    later = ("select",)


class Generate(Group):
    """Sampling of K responses per prompt."""

    engine: Literal["auto", "hf", "vllm", "fake"] = "auto"  # auto is vllm on GPUs if installed, else hf
    samples: Whole = Field(16, ge=2)  # K; a pair needs two
    temperature: Real = Field(0.9, gt=0, le=2)  # at 0 all samples agree; 2 is vLLM's limit
    top_p: Real = Field(1.0, gt=0, le=1)
    max_new_tokens: Count = 2048
    max_model_len: Whole | None = Field(None, ge=2)  # tokens of prompt plus response; null: the model's limit
    shard_size: Count = 256  # prompts per shard: what a kill can cost, and what workers share out
    batch_tokens: Count = 65536  # of prompts and responses that the hf engine's cache holds at once
    tensor_parallel: Count = 1  # GPUs that a vLLM engine spreads its model over
    token_logps: bool = False  # keep the engine's log-prob of every token of a response, not their sum alone
    engine_args: PassedOn = {}  # passed to vLLM as they are; not for hf

    @field_validator("engine_args")
    @classmethod
    def _leave_the_rest_alone(cls, args: dict[str, Any]) -> dict[str, Any]:
        is_safe = args.get("load_format", SAFE_FORMATS[0]) in SAFE_FORMATS
        require(is_safe, "load_format", f"must read no pickles, as {', '.join(SAFE_FORMATS)} do")
        for name, instead in MANAGED_ENGINE_ARGS.items():
            require(name not in args, name, f"follows from the recipe; use {instead}")
        return args

    @model_validator(mode="after")
    def _fits(self) -> Self:
        spread = self.tensor_parallel > 1 and self.engine not in ("vllm", "auto")
        reason = f"is {self.tensor_parallel}; only vllm does that, and generate.engine is {self.engine}"
        require(not spread, "tensor_parallel", reason)
        return self


class Score(Group):
    """Rewards, and where they come from."""

    # A function gets a prompt and a response, or, where its parameters are called so, prompts and responses.
    reward: Annotated[MaybePath, AfterValidator(_is_source)] = "implicit"
    cutoff_len: Whole = Field(4096, ge=2)  # tokens of prompt plus response; longer ones are dropped
    # The policy's log-probs of an implicit reward: scorer reads the responses once more; engine takes what
    # sampling knew, which saves half of scoring and is as exact as the engine's kernels.
    policy_logps: Literal["scorer", "engine"] = "scorer"
    normalize: Literal["none", "tokens"] = "none"  # tokens: implicit rewards per token of the response
    average_rounds: Count = 1  # an implicit reward is the mean of the last so many rounds' rewards
    # Of implicit rewards: the policy before, or in every round the reference that the run started from.
    reference: Literal["previous", "first"] = "previous"
    consistency: bool = False  # rank responses by the round before's reward too, for more forward passes
    # Tokens in one forward pass; auto finds how many the device can hold.
    batch_tokens: Literal["auto"] | Count = "auto"
    # auto: flash attention where it is installed, else sdpa
    attn_implementation: Literal["auto", "sdpa", "flash_attention_2", "flash_attention_3", "eager"] = "auto"
    # Load the models with bitsandbytes.
    quantization_bit: Annotated[Literal[4, 8], read_as(int, str)] | None = None
    # train: one made of the offline pairs before round 1; else a folder or a Hub id
    reward_model: MaybePath = "train"
    # What its training file has otherwise than `train`; these rates are usual for reward models of 8B.
    reward_args: PassedOn = {}
    reward_timeout: Real = Field(60.0, gt=0)  # seconds that a function of yours has for an answer
    judge: MaybePath = "policy"  # policy, a model's folder, or the name by which a server knows a model
    # A text file with {prompt} and {response}, or a next turn; null: ours.
    judge_prompt: MaybePath | None = None
    judge_samples: Count = 3  # grades of a response, averaged
    judge_temperature: Real = Field(0.7, ge=0, le=2)
    judge_max_tokens: Count = 512  # of one answer of the judge
    judge_concurrency: Count = 16  # requests that a worker has at a server at once
    judge_timeout: Real = Field(120.0, gt=0)  # seconds that a server has for one answer

    @model_validator(mode="after")
    def _fits(self) -> Self:
        varied = self.judge_temperature > 0 or self.judge_samples == 1
        require(varied, "judge_temperature", "is 0; it must be above 0, or all samples agree")
        return self


class Pair(Group):
    """Filters, length balance, and the choice of chosen and rejected."""

    min_samples: Whole = Field(8, ge=2)  # scored responses a prompt needs
    min_chars: Whole = 4
    max_chars: Whole = 6699
    length: Literal["chars", "tokens"] = "chars"  # what alpha multiplies
    # auto: balanced exactly; grid: the published sweep; or reward per character (token)
    alpha: Literal["auto", "grid"] | Number = "auto"
    # random: any other sample of the prompt; sigma: the one nearest to the mean less two standard deviations
    rejected: Literal["worst", "random", "sigma"] = "worst"
    per_prompt: Count = 1  # pairs of a prompt: best and worst, then best and worst of what is left, ...
    min_margin: Real = Field(0.0, ge=0)  # of length-regularized reward, between chosen and rejected
    min_confidence: Real = Field(0.0, ge=0, le=0.999)  # least sigma(beta * margin); beta is train.pref_beta
    trl: bool = False  # export the data sets in TRL's format too
    later = ("min_confidence",)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        reason = f"is {self.min_chars}; it must not be above pair.max_chars, which is {self.max_chars}"
        require(self.min_chars <= self.max_chars, "min_chars", reason)
        return self


class Train(Group):
    """DPO by LLaMA-Factory."""

    config: Text = "dpo.yaml"  # a LLaMA-Factory training file beside the recipe
    global_batch_size: Count = 32  # pairs per optimizer step, whatever the number of GPUs
    reference_logps: Literal["table", "model"] = "table"  # a table: no reference model in memory
    # Pairs are read in packs, as scoring reads: auto, in batches of per_device_train_batch_size (smaller on a
    # CPU); a number, as many at once as so many tokens hold. off: as LLaMA-Factory does.
    pack_tokens: Annotated[Literal["auto", "off"] | Count, BeforeValidator(_yaml_off)] = "auto"
    # Labels count as wrong with a probability: by the tau of the prompt's rankings, or by the pair's margin.
    smoothing: Literal["none", "consistency", "confidence"] = "none"
    loss: Literal["dpo", "length_normalized", "wpo"] = "dpo"  # or DPO per token, or with WPO's weights
    args: PassedOn = {}  # the file's contents and what overrides them
    later = ("pack_tokens", "smoothing", "loss")

    @field_validator("args")
    @classmethod
    def _train_by_dpo(cls, args: dict[str, Any]) -> dict[str, Any]:
        reason = "must be dpo; a round makes pairs (KTO's loss for these is pref_loss: kto_pair)"
        require(args.get("stage") == "dpo", "stage", reason)
        kinds = ("full", "freeze", "lora")
        require(args.get("finetuning_type") in kinds, "finetuning_type", "must be full, freeze or lora")
        size = args.get("per_device_train_batch_size", 1)
        is_count = isinstance(size, int) and not isinstance(size, bool) and size >= 1
        require(is_count, "per_device_train_batch_size", "must be a whole number of at least 1")
        beta = args.get("pref_beta")
        require(beta is None or _is_number(beta), "pref_beta", f"is {spelled(beta):.80}; it must be a number")
        validates = args.get("eval_strategy") not in (None, False, "no")
        reason = f"is {args.get('eval_strategy')!r}; it needs train.val_size, or set train.eval_strategy=no"
        require(not validates or args.get("val_size"), "eval_strategy", reason)
        bits, kind = args.get("quantization_bit"), args["finetuning_type"]
        reason = f"is {bits}; it needs train.finetuning_type=lora"
        require(not bits or kind == "lora", "quantization_bit", reason)
        for name, value in args.items():
            reason = refusal(name, value)
            require(not reason, name, f"can't be {spelled(value):.80} in a round: {reason}")
        return args


class Evaluate(Group):
    """Held-out prompts, answered by every model of the run and judged."""

    prompts: Text | None = None  # a prompt set of dataset_info.json; null: no evaluation
    judge: MaybePath | None = None  # path/to/file.py:function, called as f(prompt, response) -> quality
    samples: Count = 4  # answers per prompt
    # A preference set that rewards are compared with before round 1 and after each round.
    preferences: Text | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        require(bool(self.judge) == bool(self.prompts), "judge", "and evaluate.prompts go together")
        return self
