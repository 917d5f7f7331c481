"""Before round 1: what can be known to be wrong is found, and nothing is written before that."""

import contextlib
import difflib
import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

from dice import chat, evaluate, launch, registry, replay, sources, store, trainer, upstream
from dice.checkpoints import base_of, check_model
from dice.console import say
from dice.engines import resolve_engine
from dice.errors import BadInput, StageFailed
from dice.recipe import ROOT, Generate, Recipe, resolve
from dice.recipe_io import load_recipe, load_resolved, origin
from dice.stage import differences


def start(name: str, overrides: Sequence[str]) -> store.Run:
    """Check a recipe, make what it needs, and write its run's recipe.yaml.

    Raises BadInput for anything that can't work: a data set, template, model or batch size.
    """
    recipe = load_recipe(name, overrides)
    recipe = replace(recipe, generate=replace(recipe.generate, engine=resolve_engine(recipe.generate.engine)))
    real = recipe.generate.engine != "fake"
    check_batch(recipe)

    def place(key: str) -> str:
        return origin(name, overrides, key)

    if real:
        with naming(place("generate.engine")):
            check_engine(recipe.generate.engine)
        check_gpus(recipe.generate)
        with naming(place("template")):
            check_template(recipe.template)
        check_train_args(recipe, place)
    check_names(recipe)
    check_packages(recipe, place)
    if recipe.prepare:
        prepare(recipe.prepare)
    check_data(recipe)
    for role in ("policy", "reference") if real else ():
        with naming(place(role)):
            check_model(role, getattr(recipe, role))
    if real:
        check_adapter(recipe)
        chat.check_alike(*(store.model_path(name) for name in (recipe.policy, recipe.reference)))
    return _write(recipe)


def _write(recipe: Recipe) -> store.Run:
    before = _previous(recipe)
    for change in differences(asdict(before), asdict(recipe)) if before else ():
        say(f"recipe    {change}", mark="!")
    return store.create_run(recipe)


def _previous(recipe: Recipe) -> Recipe | None:
    """What this run was started with before; None for a new run or a recipe of another version."""
    try:
        return load_resolved(recipe.run_dir / "recipe.yaml")
    except (FileNotFoundError, BadInput):
        return None


def prepare(command: str) -> None:
    """Run the recipe's own preparation; it is expected to return at once when there is nothing to do.

    One program with arguments, no shell; `python` is this Python. Raises BadInput where it can't be
    run, StageFailed where it fails.
    """
    try:
        words = shlex.split(command)
        if words[0] == "python":
            words[0] = sys.executable
        status = subprocess.run(words, cwd=ROOT, env=launch.environment()).returncode
    except (ValueError, IndexError, OSError) as error:
        raise BadInput(f"prepare: {command!r} is no command that can be run ({error})") from None
    if status == BadInput.status:
        raise BadInput(f"prepare: {command} could not be run (see above)")
    if status:
        raise StageFailed(f"prepare: {command} failed with status {status}")


def check_template(name: str) -> None:
    """Raises BadInput for a template that LLaMA-Factory does not know."""
    if name not in chat.CUSTOM_TEMPLATES and name not in chat.known_templates():
        raise BadInput(f"template: {chat.unknown_template(name)}")


def check_batch(recipe: Recipe) -> None:
    """Raises BadInput where the global batch can't be split over the processes."""
    processes = launch.workers_per_node() * launch.node_count()
    trainer.batch_sizes(recipe.train.global_batch_size, 1, processes)


def check_engine(engine: str) -> None:
    """Raises BadInput for vLLM where it is not installed."""
    if engine == "vllm" and not importlib.util.find_spec("vllm"):
        raise BadInput(
            "generate.engine is vllm, which is not installed; install it or use generate.engine=hf"
        )


def check_gpus(options: Generate) -> None:
    """Raises BadInput where engines can't have as many GPUs as generate.tensor_parallel says."""
    if options.engine != "vllm" and options.tensor_parallel > 1:
        raise BadInput(
            f"generate.tensor_parallel is {options.tensor_parallel}; only vllm does that, and "
            f"generate.engine is {options.engine}"
        )
    launch.engines_per_node(options.tensor_parallel)


def check_train_args(recipe: Recipe, place: Callable[[str], str]) -> None:
    """Raises BadInput for arguments that LLaMA-Factory does not know or whose values it can't take.

    `place` says which file and line a key comes from. Asking LLaMA-Factory takes seconds, so
    arguments that this run was started with before are trusted.
    """
    args = recipe.train.args
    deepspeed = args.get("deepspeed")
    if isinstance(deepspeed, str) and not resolve(deepspeed).is_file():
        raise BadInput(f"{place('train.deepspeed')}: train.deepspeed: {resolve(deepspeed)} does not exist")
    before = _previous(recipe)
    if before and before.train.args == args:
        return
    known = upstream.arguments()
    for name, value in args.items():
        key = f"train.{name}"
        if name not in known:
            close = difflib.get_close_matches(name, known, n=3)
            hint = f"; did you mean {' or '.join(close)}?" if close else ""
            raise BadInput(f"{place(key)}: unknown key {key!r}: neither DICE nor LLaMA-Factory has it{hint}")
        if wanted := upstream.misfit(value, known[name]):
            raise BadInput(f"{place(key)}: {key} is {value!r}; LLaMA-Factory takes {wanted}")


def check_packages(recipe: Recipe, place: Callable[[str], str]) -> None:
    """Raises BadInput for what a recipe asks for and only an optional package can do."""
    asked = {}
    for key, bits in (
        ("score.quantization_bit", recipe.score.quantization_bit),
        ("train.quantization_bit", recipe.train.args.get("quantization_bit")),
    ):
        if bits:
            asked[key] = ["bitsandbytes"]
    loggers = recipe.train.args.get("report_to") or []
    asked["train.report_to"] = [loggers] if isinstance(loggers, str) else loggers
    for key, packages in asked.items():
        for package in packages:
            if package not in ("none", "all") and not importlib.util.find_spec(package):
                raise BadInput(
                    f"{place(key)}: {key} needs {package}, which is not installed: pip install {package}"
                )


def check_adapter(recipe: Recipe) -> None:
    """Raises BadInput for a policy that is an adapter where training is not of adapters."""
    kind = recipe.train.args["finetuning_type"]
    if kind != "lora" and base_of(recipe.policy):
        raise BadInput(
            f"policy: {recipe.policy} is an adapter, which finetuning_type: {kind} can't train; use lora, or "
            f"merge it first: python -m dice export {recipe.policy} --output=FOLDER"
        )


def data_sets(recipe: Recipe) -> dict[str, tuple[Callable, str]]:
    """The data sets of a recipe by key, each with the function that reads it."""
    sets = {"prompts": (sources.read_prompts, recipe.prompts)}
    if recipe.replay.gamma > 0:
        sets["replay.dataset"] = (sources.read_preferences, recipe.replay.dataset)
    if recipe.evaluate.prompts:
        sets["evaluate.prompts"] = (sources.read_prompts, recipe.evaluate.prompts)
    return sets


def check_names(recipe: Recipe) -> None:
    """Raises BadInput for data sets that are not registered and a judge that does not exist."""
    for key, (_, name) in data_sets(recipe).items():
        with naming(key):
            registry.find_entry(recipe.dataset_dir, name)
    if recipe.evaluate.judge:
        evaluate.load_judge(recipe.evaluate.judge)


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts the recipe's key, or where it is set, before the message of a BadInput."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{what}: {error}") from error


def check_data(recipe: Recipe) -> None:
    """Read every data set of the recipe to its end. Raises BadInput, naming key, file and line.

    Also where the offline pairs are so few that gamma leaves no room for a generated one.
    """
    for key, (read, name) in data_sets(recipe).items():
        with naming(key):
            rows, _ = read(recipe.dataset_dir, name)
            if key == "replay.dataset":
                replay.check_size(len({row.prompt_id for row in rows}), recipe.replay.gamma)
