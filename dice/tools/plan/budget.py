"""What a recipe costs on a machine: its models' sizes, its work and its training file, put together."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import BadInput, spelled
from dice.inference.load import engine_named
from dice.launch.hardware import GIB, Device, Machine
from dice.models import trainer
from dice.recipe.keys import Recipe
from dice.recipe.paths import is_function
from dice.run.files import read_json
from dice.stages import train_reward_model
from dice.tools.plan import estimate
from dice.tools.plan.estimate import Cost, Sampling, Training
from dice.tools.plan.sizes import Size, size_of
from dice.tools.plan.workload import Workload, rows_here, workload

VLLM_SHARE = 0.9  # of a GPU's memory, unless generate.engine_args say otherwise
LORA_RANK, TRAINED_LAYERS, SAVE_STEPS = 8, 2, 500  # LLaMA-Factory's own values
HELD_OUT = 1000  # prompts to evaluate on, where their set is not here yet


@dataclass(frozen=True)
class Budget:
    """A recipe on a machine. Sizes are None where nothing tells them."""

    recipe: Recipe
    machine: Machine
    works: list[Workload]  # of each round if they have prompt sets of their own, else one for all

    @property
    def work(self) -> Workload:
        """The work of round 1."""
        return self.works[0]

    def at(self, t: int) -> "Budget":
        """The budget of round t alone."""
        return replace(self, works=[self.works[t - 1]]) if t and len(self.works) > 1 else self

    @cached_property
    def policy(self) -> Size | None:
        return self._size_of(self.recipe.policy)

    @cached_property
    def reference(self) -> Size | None:
        return self._size_of(self.recipe.reference)

    def _size_of(self, model: str) -> Size | None:
        return size_of(model) if engine_named(self.recipe.generate.engine).reads_models else None

    @property
    def longest(self) -> int:
        """Tokens of the longest row that may be sampled."""
        recipe, context = self.recipe, self.policy.context if self.policy else None
        wanted = max(work.longest_prompt for work in self.works) + recipe.generate.max_new_tokens
        return min(filter(None, (wanted, recipe.generate.max_model_len, context)))

    @property
    def sampling(self) -> Sampling:
        """What vLLM decodes at once is its own affair; the hf engine fills `generate.batch_tokens`."""
        options, longest = self.recipe.generate, self.longest
        if options.engine == "vllm":
            share = _engine_arg(options.engine_args, "gpu_memory_utilization", VLLM_SHARE)
            rows = _engine_arg(options.engine_args, "max_num_seqs", _vllm_rows(self.machine.device))
            # It does not start where a row of the longest length that it is made for would not fit.
            held = options.max_model_len or (self.policy.context if self.policy else None) or longest
            return Sampling(rows, held, share, options.tensor_parallel)
        rows = max(options.samples, options.batch_tokens // longest)
        return Sampling(rows, rows * longest, 1.0)

    @cached_property
    def training(self) -> Training:
        """Raises BadInput where the global batch can't be split over the devices."""
        return training(self.recipe, self.machine, self.work)

    def cost(self, stage: str) -> Cost | None:
        """Of one round's stage, or of the evaluation; None where the models' sizes are not known."""
        recipe, machine, work, size = self.recipe, self.machine, self.work, self.policy
        if stage == "pair":
            return estimate.pair(work)
        if size is None:
            return None
        if stage in ("generate", "evaluate"):
            cost = estimate.generate(size, machine, work, self.sampling)
            share = 1 if stage == "generate" else self.evaluated / work.responses
            return replace(cost, seconds=cost.seconds * share)
        if stage == "score":
            return self._scoring(size, work)
        if stage == "agree":
            return self._scoring(size, replace(work, prompts=self.labelled, samples=2))
        if stage == "train_rm":
            epochs = train_reward_model.training_args(recipe)["num_train_epochs"]
            steps = math.ceil(self.ranked * epochs / work.batch)
            ranking = replace(work, steps=steps, offline=0, held_out=0)
            return estimate.train(self.reference or size, machine, ranking, self.training, self.longest)
        if recipe.score.reward != "implicit":  # no reference log-probs come from scoring
            work = replace(work, offline=work.offline + work.generated)
        return estimate.train(size, machine, work, self.training, self.longest)

    def _scoring(self, size: Size, work: Workload) -> Cost | None:
        """Of rewards; None where that is somebody else's affair, or of unknown length."""
        score, machine = self.recipe.score, self.machine
        if score.reward == "random":
            return estimate.pair(work)
        if score.reward == "judge" or is_function(score.reward):
            return None
        if score.reward == "reward_model":
            trained = train_reward_model.is_wanted(self.recipe)
            ranker = self.reference if trained else size_of(score.reward_model)
            return estimate.score(ranker, machine, work, score.quantization_bit, models=1) if ranker else None
        larger = max((size, self.reference or size), key=lambda one: one.parameters)
        return estimate.score(larger, machine, work, score.quantization_bit)

    @cached_property
    def ranked(self) -> int:
        """Pairs that a reward model is trained on: the offline ones, as many as prompts where unknown."""
        offline = rows_here(self.recipe, read_preferences, self.recipe.replay.dataset)
        return len(offline) or self.work.prompts

    @cached_property
    def labelled(self) -> int:
        """Held-out preferences that rewards are held against."""
        name = self.recipe.evaluate.preferences
        return (len(rows_here(self.recipe, read_preferences, name)) or HELD_OUT) if name else 0

    @cached_property
    def evaluated(self) -> int:
        """Answers to held-out prompts: of every round's model and of the two that the run starts from."""
        options = self.recipe.evaluate
        if not options.prompts:
            return 0
        prompts = len(rows_here(self.recipe, read_prompts, options.prompts)) or HELD_OUT
        return prompts * options.samples * (self.recipe.rounds + 2)

    @property
    def disk(self) -> tuple[int, int, int] | None:
        """Bytes under results/: (the rounds' models, their texts, checkpoints while training)."""
        if self.policy is None:
            return None
        rounds = [self.at(t).work for t in range(1, self.recipe.rounds + 1)]
        sizes = [estimate.disk_bytes(self.policy, work, self.training) for work in rounds]
        models, texts = map(sum, zip(*sizes, strict=True))
        answers = int(self.evaluated * (self.work.response_tokens * self.work.chars_per_token + 330))
        return models, texts + answers, self._checkpoints()

    @property
    def disk_to_come(self) -> int | None:
        """Bytes of `disk` that do not lie in the run's folder already."""
        if self.disk is None:
            return None
        files = (path for path in self.recipe.run_dir.rglob("*") if path.is_file())
        return max(0, sum(self.disk) - sum(path.stat().st_size for path in files))

    def _checkpoints(self) -> int:
        """Bytes of the checkpoints that the trainer keeps until a round is done: weights and Adam's state."""
        args = self.recipe.train.args
        strategy, every = _given(args, "save_strategy", "steps"), _given(args, "save_steps", SAVE_STEPS)
        if strategy == "no":
            return 0
        saved = int(self.work.steps // every) if strategy == "steps" and every >= 1 else 2
        kept = min(saved, 2)  # one goes once the next is complete
        return kept * (estimate.ADAM - 2) * estimate.trained_parameters(self.policy, self.training)


def budget(recipe: Recipe, machine: Machine) -> Budget:
    """Raises BadInput where data or models that are here can't be read."""
    sets = min(len(recipe.prompt_sets), recipe.rounds)
    return Budget(recipe, machine, [workload(recipe, t) for t in range(1, sets + 1)])


def training(recipe: Recipe, machine: Machine, work: Workload) -> Training:
    """What the training file means on a machine."""
    args = recipe.train.args
    fitted = trainer.adapt(args, recipe.train.global_batch_size, machine.count, machine.device.is_gpu)
    zero = _zero(fitted.get("deepspeed"))
    return Training(
        kind=_given(args, "finetuning_type", "lora"),
        zero_stage=zero.get("stage", 0),
        offloads_optimizer=_on_cpu(zero, "offload_optimizer"),
        offloads_weights=_on_cpu(zero, "offload_param"),
        quantization_bit=args.get("quantization_bit"),
        rank=_given(args, "lora_rank", LORA_RANK),
        trained_layers=abs(_given(args, "freeze_trainable_layers", TRAINED_LAYERS)),
        per_device=fitted["per_device_train_batch_size"],
        cutoff_len=recipe.score.cutoff_len,
        keeps_reference=recipe.train.reference_logps == "model",
        evaluations=_evaluations(args, work),
    )


def _given(args: dict[str, Any], name: str, default: Any) -> Any:
    """An argument; its default also where it is null, which means "not given"."""
    value = args.get(name)
    return default if value is None else value


def _engine_arg(args: dict[str, Any], name: str, default: float) -> Any:
    """A number above 0 among vLLM's options. Raises BadInput for anything else."""
    value = _given(args, name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise BadInput(f"generate.engine_args.{name} is {spelled(value)}; it must be a number above 0")
    return value


def _vllm_rows(device: Device) -> int:
    """Rows that vLLM's offline engine decodes at once on a device, unless it is told otherwise."""
    return 1024 if device.is_gpu and device.memory >= 70 * GIB and "A100" not in device.name else 256


def _zero(deepspeed: Any) -> dict[str, Any]:
    """The ZeRO part of a DeepSpeed configuration, a file or a mapping."""
    if isinstance(deepspeed, str):
        deepspeed = read_json(Path(deepspeed))
    return (deepspeed or {}).get("zero_optimization") or {}


def _on_cpu(zero: dict[str, Any], what: str) -> bool:
    return (zero.get(what) or {}).get("device", "none") != "none"


def _evaluations(args: dict[str, Any], work: Workload) -> int:
    """How often a round is validated."""
    strategy = _given(args, "eval_strategy", "no")
    if strategy == "epoch":
        return round(work.epochs)
    every = args.get("eval_steps") or _given(args, "logging_steps", SAVE_STEPS)
    return int(work.steps // every) if strategy == "steps" and every >= 1 else 0
