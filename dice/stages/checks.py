"""What can be known to be wrong before round 1, found without loading a model.

`python -m dice start` stops at the first check that raises; `python -m dice doctor` tells of all of them.
"""

import contextlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dice.data import dataset_info
from dice.errors import BadInput, Unmade, Unreadable, counted
from dice.inference.load import engine_named
from dice.launch import devices
from dice.models import chat_template, llamafactory, trainer
from dice.models.checkpoint import base_of, check_different, check_model
from dice.recipe.keys import AUTO, Recipe
from dice.recipe.load import COMMAND_LINE, load_resolved
from dice.recipe.paths import resolve
from dice.rewards import check
from dice.run import files
from dice.stages.data_checks import check_data, check_enough, check_names, data_sets, naming

ROLES = ("policy", "reference")
# What train.report_to calls by the name of its package; others are left to the trainer.
LOGGERS = {
    "tensorboard", "wandb", "mlflow", "swanlab", "trackio", "neptune", "comet_ml", "clearml", "dvclive",
    "codecarbon",
}  # fmt: skip
# LLaMA-Factory's switches and the module each needs.
PACKAGES = {
    "enable_liger_kernel": "liger_kernel", "use_galore": "galore_torch", "use_apollo": "apollo_torch",
    "use_badam": "badam", "use_adam_mini": "adam_mini", "use_swanlab": "swanlab",
}  # fmt: skip
Place = Callable[[str], str]  # which file and line a key of the recipe comes from


@dataclass(frozen=True)
class Check:
    """One thing that may be wrong. `examine` says what it found to be right, or raises BadInput.

    What could not be found out it says as `Unmade`.
    """

    topic: str
    examine: Callable[[], str]
    advice: str  # what to do where it raises


def before_preparation(recipe: Recipe, place: Place) -> list[Check]:
    """Checks of the recipe itself; after these its `prepare` may run."""
    batch = Check("batch", partial(check_batch, recipe), "set train.global_batch_size or NPROC_PER_NODE")
    names = Check("names", partial(check_names, recipe), "correct the name, or register the data set")
    loggers = Check("loggers", partial(check_loggers, recipe, place), "install it, or leave it out")
    if not engine_named(recipe.generate.engine).reads_models:
        return [batch, loggers, names]
    return [
        batch,
        loggers,
        Check("engine", partial(check_engine, recipe, place), "install vLLM, or set generate.engine=hf"),
        Check("engines", partial(check_gpus, recipe), "set generate.tensor_parallel or NPROC_PER_NODE"),
        Check("template", partial(check_template, recipe, place), "set template to one of those names"),
        Check("arguments", partial(check_train_args, recipe, place), "correct that key or its value"),
        Check("packages", partial(check_packages, recipe, place), "install it into the environment"),
        names,
    ]


def after_preparation(recipe: Recipe, place: Place, download: bool = False) -> list[Check]:
    """Checks of what the recipe names: its data (that on the Hub, if `download` or cached) and its models."""
    correct = "correct that row, or name another data set"
    counts: dict[str, int] = {}  # distinct prompts of each set that was read
    checks = [
        Check(key, partial(check_data, recipe, key, download, counts), correct) for key in data_sets(recipe)
    ]
    if not engine_named(recipe.generate.engine).reads_models:
        return checks
    model = "name a causal LM: a folder with config.json, tokenizer and *.safetensors, or one of the Hub"
    apart = "set reference to the model before DPO and policy to the one after"
    family = "take a policy that was trained from the reference"
    source = "name another reward_model or judge, or set score.reward=implicit"
    template = "set template to the one that the policy was trained with"
    return [
        *checks,
        *(Check(role, partial(examine_model, recipe, role, place), model) for role in ROLES),
        Check(
            "adapter", partial(check_adapter, recipe), "set train.finetuning_type=lora, or merge the adapter"
        ),
        Check("two models", partial(check_two, recipe), apart),
        Check("tokenizers", partial(check_alike, recipe), family),
        Check(next(iter(check.models(recipe)), "reward source"), partial(check.examine, recipe), source),
        Check("fit", partial(check_fit, recipe, place), template),
        Check("rows", partial(check_enough, recipe, counts), "more prompts, or a smaller batch or val_size"),
    ]


def check_batch(recipe: Recipe) -> str:
    """Raises BadInput where the global batch can't be split over the processes."""
    processes = devices.process_count()
    total = recipe.train.global_batch_size
    per_device = recipe.train.args.get("per_device_train_batch_size", 1)
    size, steps = trainer.batch_sizes(total, per_device, processes)
    return f"{counted(total, 'pair')} a step: {processes} x {counted(size, 'pair')}, {counted(steps, 'time')}"


def check_engine(recipe: Recipe, place: Place) -> str:
    """Raises BadInput for vLLM where it is not installed."""
    engine = recipe.generate.engine
    if engine == "vllm" and not importlib.util.find_spec("vllm"):
        raise BadInput(
            f"{place('generate.engine')}: generate.engine is vllm, which is not installed; "
            "install it or use generate.engine=hf"
        )
    return engine


def check_gpus(recipe: Recipe) -> str:
    """Raises BadInput where engines can't have as many GPUs as generate.tensor_parallel says."""
    options = recipe.generate
    if options.engine != "vllm" and options.tensor_parallel > 1:
        raise BadInput(
            f"generate.tensor_parallel is {options.tensor_parallel}; only vllm does that, and "
            f"generate.engine is {options.engine}"
        )
    engines = devices.engines_per_node(options.tensor_parallel)
    return f"{engines} of {counted(options.tensor_parallel, 'GPU')} each"


def check_packages(recipe: Recipe, place: Place) -> str:
    """Raises BadInput for what a recipe asks for and only an optional package can do."""
    args = recipe.train.args
    loggers = args.get("report_to") or []
    switched_on = {f"train.{key}": [name] for key, name in PACKAGES.items() if args.get(key)}
    quantized = args.get("quantization_bit") and (args.get("quantization_method") or "bnb") == "bnb"
    asked = switched_on | {
        "score.quantization_bit": ["bitsandbytes"] if recipe.score.quantization_bit else [],
        "train.quantization_bit": ["bitsandbytes"] if quantized else [],
        "train.report_to": LOGGERS & {*([loggers] if isinstance(loggers, str) else loggers)},
    }
    needed = [(key, name) for key, names in asked.items() for name in sorted(names)]
    for key, name in needed:
        if not importlib.util.find_spec(name):
            raise BadInput(f"{place(key)}: {key} needs {name}, which is not installed: pip install {name}")
    return ", ".join(name for _, name in needed) or "nothing optional is asked for"


def check_loggers(recipe: Recipe, place: Place) -> str:
    """Raises BadInput for a logger of report_to that is not installed."""
    for name in recipe.report_to:
        found = importlib.util.find_spec(name)
        if not found or not found.origin:  # a folder that the logger has written to is no package
            raise BadInput(
                f"{place('report_to')}: report_to needs {name}, which is not installed: "
                "pip install -e '.[loggers]'"
            )
    return ", ".join(recipe.report_to) or "none is asked for"


def check_template(recipe: Recipe, place: Place) -> str:
    """Raises BadInput for a template that LLaMA-Factory does not know."""
    name = recipe.template
    ours = (*chat_template.CUSTOM_TEMPLATES, AUTO)
    if name not in ours and name not in chat_template.known_templates():
        raise BadInput(f"{place('template')}: template: {chat_template.unknown_template(name)}")
    return name


def check_train_args(recipe: Recipe, place: Place) -> str:
    """Raises BadInput for arguments that LLaMA-Factory does not know or whose values it can't take.

    Asking LLaMA-Factory takes seconds, so arguments that this run was started with before are trusted.
    """
    args = recipe.train.args
    fine = f"{len(args)} of LLaMA-Factory's, all known to it"
    deepspeed = args.get("deepspeed")
    if isinstance(deepspeed, str) and not resolve(deepspeed).is_file():
        raise BadInput(f"{place('train.deepspeed')}: train.deepspeed: {resolve(deepspeed)} does not exist")
    if isinstance(deepspeed, str) and files.read_json(resolve(deepspeed)) is None:
        raise BadInput(f"{place('train.deepspeed')}: train.deepspeed: {resolve(deepspeed)} is no JSON object")
    before = previous(recipe)
    if before and before.train.args == args:
        return fine
    for key, wrong in llamafactory.wrong_arguments(args, "train"):
        raise BadInput(f"{place(key)}: {wrong}")
    steps, epochs = args.get("max_steps") or -1, "train.num_train_epochs"
    is_given = args.get("num_train_epochs") is not None
    if steps > 0 and is_given and place(epochs) == COMMAND_LINE != place("train.max_steps"):
        reason = f"train.max_steps ends the training after {steps:,} steps; set it to -1 as well"
        raise BadInput(f"{place(epochs)}: {epochs} is {args['num_train_epochs']:g}, but {reason}")
    return fine


def examine_model(recipe: Recipe, role: str, place: Place) -> str:
    """Raises BadInput where the policy or the reference is no complete causal LM."""
    name = getattr(recipe, role)
    with naming(place(role)):
        folder = check_model(role, name)
    return f"{name}: {'a complete causal LM' if folder else 'on the Hub, still to be downloaded'}"


def check_adapter(recipe: Recipe) -> str:
    """Raises BadInput for a policy that is an adapter where training is not of adapters."""
    kind, is_adapter = recipe.train.args["finetuning_type"], base_of(home("policy", recipe.policy))
    if is_adapter and kind != "lora":
        raise BadInput(f"policy: {recipe.policy} is an adapter, which finetuning_type: {kind} can't train")
    return f"finetuning_type: {kind}, of {'that adapter' if is_adapter else 'the whole model'}"


def check_two(recipe: Recipe) -> str:
    """Raises BadInput where policy and reference are the same model, and rewards are their difference."""
    if recipe.score.reward != "implicit":
        return f"{recipe.score.reward} rewards do not compare them"
    if recipe.policy == recipe.reference:
        raise BadInput(f"policy and reference are both {recipe.policy}: every implicit reward would be 0")
    policy, reference = (check_model(role, getattr(recipe, role)) for role in ROLES)
    if not (policy and reference):
        return Unmade("not compared: policy and reference are not both on this machine yet")
    check_different(policy, reference)
    return "policy and reference differ"


def check_alike(recipe: Recipe) -> str:
    """Raises BadInput where policy and reference are compared and read texts as other tokens."""
    if recipe.score.reward != "implicit":
        return f"{recipe.score.reward} rewards do not compare them"
    return chat_template.check_alike(*(home(role, getattr(recipe, role)) for role in ROLES))


def check_fit(recipe: Recipe, place: Place) -> str:
    """Raises BadInput where the policy's tokenizer and the template do not go together.

    A pair of them that this run was started with before is trusted: finding out takes seconds.
    """
    check_template(recipe, place)
    before = previous(recipe)
    if not before or (before.policy, before.template) != (recipe.policy, recipe.template):
        llamafactory.hush()
        with naming(place("template")):
            chat_template.load_chat(home("policy", recipe.policy), **recipe.encoding)
    return f"{recipe.template} and the policy's tokenizer go together"


def to_be_made(recipe: Recipe, place: Place) -> dict[str, str]:
    """Topics of checks whose subject the recipe's `prepare` is still to make, each with what is missing.

    What was named on the command line is nothing that a recipe prepares, unless its command names it, too.
    """
    if not recipe.prepare:
        return {}
    missing = {}
    for key, name in ((key, name) for key, (_, names) in data_sets(recipe).items() for name in names):
        with contextlib.suppress(BadInput):  # not registered: another check says so
            source = dataset_info.find_entry(recipe.dataset_dir, name)
            if not source.hub and not source.file.exists():
                missing[key] = name
    if engine_named(recipe.generate.engine).reads_models:
        named = {role: getattr(recipe, role) for role in ROLES} | check.models(recipe)
        for role, name in named.items():
            if not resolve(name).exists() and resolve(name.partition("/")[0]).exists():
                missing[role] = name
    prepared = recipe.prepare.split()
    missing = {key: name for key, name in missing.items() if place(key) != COMMAND_LINE or name in prepared}
    if missing.keys() & {*ROLES}:
        both = " and ".join(missing[role] for role in ROLES if role in missing)
        missing |= dict.fromkeys(("adapter", "two models", "tokenizers", "fit"), both)
    return missing


def stand_in(recipe: Recipe, later: dict[str, str]) -> Recipe:
    """The recipe with its reference as the policy, where `prepare` is still to make the policy out of it.

    The policy will be as large as the reference, and read text as it does. Where the reference is to be made
    too, or nothing is, it is the recipe itself. `later` is what `to_be_made` found.
    """
    if "policy" not in later or "reference" in later:
        return recipe
    return recipe.model_copy(update={"policy": recipe.reference})


def home(role: str, name: str) -> str:
    """What to load a model by: its folder where it is on this machine, else its name on the Hub."""
    return str(check_model(role, name) or name)


def previous(recipe: Recipe) -> Recipe | None:
    """What this run was started with before; None for a new run, or a recipe of another version or edited.

    Raises Unreadable where nobody can tell.
    """
    try:
        return load_resolved(recipe.run_dir / "recipe.yaml")
    except Unreadable:
        raise
    except BadInput:
        return None
