"""A recipe: its keys, and the rules that span several.

A recipe is a folder with `dice.yaml`, a plain LLaMA-Factory training file (`dpo.yaml`) and a README.
Any key can be overridden in OmegaConf's dot notation, `replay.gamma=0.25`. The keys of its groups are in
`dice.recipe.groups`.

`dice.recipe.load` reads recipes and says where a value that is refused here comes from.
"""

import re
import unicodedata
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dice.errors import BadInput, counted, spelled
from dice.recipe.gates import gates_of
from dice.recipe.groups import Evaluate, Generate, Group, MaybePath, Pair, Replay, Score, Train
from dice.recipe.paths import ROOT, here, resolve
from dice.recipe.values import Count, Text, Whole, as_list, require

AUTO = "auto"  # the template that reads text as the policy's own chat template does
ENCODING = ("template", "template_ids", "special_tokens_in_text", "enable_thinking")
# The keys of `score` that look back over rounds, as they are where there is nothing to look back on.
LOOKING_BACK = {"average_rounds": 1, "consistency": False, "reference": "previous"}
# `register` is a method of every abstract class, which pydantic's models are; nothing here calls it.
warnings.filterwarnings("ignore", 'Field name "register" in "Recipe" shadows')


class Recipe(Group):
    """Everything a run depends on."""

    policy: MaybePath  # round 1's policy; a later round's is the model of the round before
    reference: MaybePath  # round 1's reference; a later round's is the policy of the round before
    # Of LLaMA-Factory's registry, or llama3-custom, zephyr-custom; auto: that of the policy's chat template.
    template: Text
    # whole: a conversation is encoded as one string, as its model's own chat template is; pieces: turn by
    # turn, as LLaMA-Factory does and as llama3-custom and zephyr-custom were published
    template_ids: Literal["whole", "pieces"] = "whole"
    special_tokens_in_text: bool = False  # whether a special token's name in a text becomes the token
    enable_thinking: bool = True  # whether models with a template for reasoning think
    prompts: list[Text] | Text  # a prompt set of dataset_info.json, or a list with one for each round
    prompts_per_round: Count | None = None  # so many of the one set, others in each round; null: all
    run: MaybePath  # name of the run; default: the recipe's
    rounds: Whole = Field(2, ge=1, le=1000)
    seed: Whole = Field(42, ge=0)
    dataset_dir: MaybePath = "data"  # the folder of dataset_info.json
    results_dir: MaybePath = "results"
    prepare: Text | None = None  # a command that makes what the recipe needs, run before round 1
    report: bool = True  # whether the loop writes report.html, after each round and at its end
    # Loggers that get the run's figures and pairs: a name or a list; none is an empty list.
    report_to: Annotated[list[Literal["wandb", "tensorboard", "mlflow"]], BeforeValidator(as_list)] = []
    register: Text | None = None  # each round's pairs become NAME_1, NAME_2, ... of dataset_info.json
    trust_remote_code: bool = False  # run the Python code that a model's folder brings along
    # Figures that must keep within bounds, as distinct_3 >= 0.5, or the loop stops; with warn it goes on.
    gates: list[Text] | Literal["warn"] = []
    # Of generation and scoring; auto: bfloat16 on GPUs and on CPUs with instructions for it, else float32.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    replay: Replay = Replay()
    generate: Generate = Generate()
    score: Score = Score()
    pair: Pair = Pair()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @property
    def beta(self) -> float:
        """DPO's beta, which LLaMA-Factory has a default for."""
        beta = self.train.args.get("pref_beta")
        return 0.1 if beta is None else float(beta)

    @property
    def prompt_sets(self) -> list[str]:
        """The sets that prompts come from: one for all rounds, or one for each."""
        return [self.prompts] if isinstance(self.prompts, str) else self.prompts

    def prompt_set(self, t: int) -> str:
        """The set that round t's prompts come from."""
        return self.prompts if isinstance(self.prompts, str) else self.prompts[t - 1]

    @property
    def is_in_nats(self) -> bool:
        """Whether rewards are differences of log-probs of whole responses."""
        return self.score.reward == "implicit" and self.score.normalize == "none"

    @property
    def run_dir(self) -> Path:
        return ROOT / self.results_dir / self.run

    @property
    def encoding(self) -> dict[str, Any]:
        """How texts become token ids."""
        return {name: getattr(self, name) for name in ENCODING}

    def encoding_settings(self) -> dict[str, Any]:
        """The same for a manifest: what has its default is left out, as in runs of earlier versions."""
        return self.said(*ENCODING)

    def in_round(self, t: int) -> "Recipe":
        """What round t makes of this recipe: in round 1 there are no earlier rounds to look back on."""
        if t > 1:
            return self
        groups: dict[str, Any] = {"score": self.score.model_copy(update=LOOKING_BACK)}
        if self.train.smoothing == "consistency":
            groups["train"] = self.train.model_copy(update={"smoothing": "none"})
        return self.model_copy(update=groups)

    def sampling(self, **changes: Any) -> "Recipe":
        """A copy with other values in its group `generate`; they are not checked."""
        return self.model_copy(update={"generate": self.generate.model_copy(update=changes)})

    @field_validator("results_dir")
    @classmethod
    def _be_one_line(cls, folder: str) -> str:
        is_line = not any(unicodedata.category(character) == "Cc" for character in folder)
        require(is_line, "", f"is {folder!r:.80}; it must have no newline or other control character")
        return folder

    def with_models_found(self) -> Self:
        """This recipe; a model's folder that lies where the user stands, and not here, has its whole path."""
        of_score = ((self.score, "reward_model", "train"), (self.score, "judge", "policy"))
        for group, key, word in ((self, "policy", ""), (self, "reference", ""), *of_score):
            name = getattr(group, key)
            if name != word and not resolve(name).exists() and (here() / name).is_dir():
                setattr(group, key, str(here() / name))
        return self

    @field_validator("run")
    @classmethod
    def _be_a_name(cls, run: str) -> str:
        is_name = re.fullmatch(r"\w[\w.-]*", run)
        require(is_name, "", f"is {run!r:.80}; a run's name has letters, digits, . _ -")
        return run

    @model_validator(mode="after")
    def _fits(self) -> Self:
        replay, samples, pair = self.replay, self.generate.samples, self.pair
        reason = f"must name a preference set, since replay.gamma is {replay.gamma}"
        require(replay.dataset or replay.gamma == 0, "replay.dataset", reason)
        is_trained = self.score.reward == "reward_model" and self.score.reward_model == "train"
        reason = "is train; replay.dataset must name the preference set to train it on"
        require(replay.dataset or not is_trained, "score.reward_model", reason)
        reason = f"is {pair.min_samples}; it must be at most generate.samples, which is {samples}"
        require(pair.min_samples <= samples, "pair.min_samples", reason)
        reason = f"is {pair.per_prompt}; it must be at most half of generate.samples, {samples // 2}"
        require(pair.per_prompt <= samples // 2, "pair.per_prompt", reason)
        self._check_prompts()
        self._check_options()
        return self

    def _check_prompts(self) -> None:
        """Raises ValueError for a list of prompt sets that does not give each round one of its own."""
        if isinstance(self.prompts, str):
            return
        names, each = self.prompts, self.prompts_per_round
        reason = f"has {counted(len(names), 'name')} for {counted(self.rounds, 'round')}; each must have one"
        require(len(names) >= self.rounds, "prompts", reason)
        for name in names:
            reason = f"has {name} twice; each round must have a set of its own"
            require(names.count(name) == 1, "prompts", reason)
        reason = f"is {each}, which shares out one set; prompts is a list and must be one name"
        require(each is None, "prompts_per_round", reason)

    def _check_options(self) -> None:
        """Raises ValueError for options of rewards and pairs that need others than the recipe has."""
        score, train, in_nats = self.score, self.train, "score.reward=implicit and score.normalize=none"

        def need(group: str, key: str, needed: str, is_so: bool) -> None:
            value = spelled(getattr(getattr(self, group), key))
            require(is_so, f"{group}.{key}", f"is {value}; it needs {needed}")

        for key in score.said("normalize", "average_rounds", "reference", "consistency"):
            need("score", key, "score.reward=implicit", score.reward == "implicit")
        if score.average_rounds > 1:
            need("score", "average_rounds", "score.reference=previous", score.reference == "previous")
        if score.policy_logps == "engine":
            as_sampled = score.quantization_bit is None and not self.generate.engine_args.get("quantization")
            need("score", "policy_logps", "weights that are not quantized", as_sampled)
        if train.smoothing == "consistency":
            need("train", "smoothing", "score.consistency=true", score.consistency)
        is_dpo = train.args.get("pref_loss", "sigmoid") == "sigmoid"
        for key in train.said("smoothing", "loss"):
            need("train", key, "train.pref_loss=sigmoid", is_dpo)
        confident = [("pair", "min_confidence")] if self.pair.min_confidence else []
        confident += [("train", "smoothing")] if train.smoothing == "confidence" else []
        for key in confident:  # sigma(beta * margin) is the probability that this loss has for a pair
            need(*key, in_nats, self.is_in_nats)
            need(*key, "train.pref_loss=sigmoid", is_dpo)
            need(*key, "a train.loss of whole responses", train.loss != "length_normalized")
            need(*key, "a train.pref_beta above 0", self.beta > 0)
        try:
            gates_of(self)
        except BadInput as error:
            require(False, "gates", str(error))


GROUPS: dict[str, type[Group]] = {
    name: type(key.default) for name, key in Recipe.model_fields.items() if isinstance(key.default, Group)
}


def known_keys() -> list[str]:
    """Every key of a recipe in dot notation."""
    nested = {name: [f"{name}.{key}" for key in group.model_fields] for name, group in GROUPS.items()}
    return [key for name in Recipe.model_fields for key in nested.get(name, [name])]
