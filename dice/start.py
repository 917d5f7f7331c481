"""Before round 1: what can be known to be wrong is found, and nothing is written before that."""

import contextlib
import difflib
import importlib.util
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace

from dice import chat, evaluate, launch, sources, store, trainer, upstream
from dice.console import say
from dice.engines import resolve_engine
from dice.errors import BadInput, StageFailed
from dice.recipe import ROOT, Recipe, resolve
from dice.recipe_io import load_recipe, load_resolved
from dice.stage import differences

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def start(name: str, overrides: Sequence[str]) -> store.Run:
    """Check a recipe, make what it needs, and write its run's recipe.yaml.

    Raises BadInput for anything that can't work: a data set, template, model or batch size.
    """
    recipe = load_recipe(name, overrides)
    recipe = replace(recipe, generate=replace(recipe.generate, engine=resolve_engine(recipe.generate.engine)))
    real = recipe.generate.engine != "fake"
    if real:
        check_engine(recipe.generate.engine)
        check_template(recipe.template)
        check_batch(recipe)
        check_train_args(recipe)
    check_names(recipe)
    if recipe.prepare:
        prepare(recipe.prepare)
    check_data(recipe)
    for role in ("policy", "reference") if real else ():
        check_model(role, getattr(recipe, role))
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

    A command that begins with `python` is run by this Python.
    """
    words = shlex.split(command)
    if words[0] == "python":
        words[0] = sys.executable
    status = subprocess.run(words, cwd=ROOT, env=launch.environment()).returncode
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


def check_train_args(recipe: Recipe) -> None:
    """Raises BadInput for arguments that LLaMA-Factory does not know, and for a missing DeepSpeed file.

    Asking LLaMA-Factory takes seconds, so arguments that this run was started with before are trusted.
    """
    args = recipe.train.args
    deepspeed = args.get("deepspeed")
    if deepspeed and not resolve(deepspeed).is_file():
        raise BadInput(f"train.deepspeed: {resolve(deepspeed)} does not exist")
    before = _previous(recipe)
    if before and before.train.args.keys() >= args.keys():
        return
    known = upstream.argument_names()
    for name in sorted(args.keys() - known):
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise BadInput(f"unknown key 'train.{name}': neither DICE nor LLaMA-Factory has it{hint}")


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
            sources.find_entry(recipe.dataset_dir, name)
    if recipe.evaluate.judge:
        evaluate.load_judge(recipe.evaluate.judge)


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Puts the recipe's key before the message of a BadInput."""
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{key}: {error}") from error


def check_data(recipe: Recipe) -> None:
    """Read every data set of the recipe to its end. Raises BadInput, naming key, file and line."""
    for key, (read, name) in data_sets(recipe).items():
        with naming(key):
            read(recipe.dataset_dir, name)


def check_model(role: str, name: str) -> None:
    """Raises BadInput where a model is neither a folder with a config.json nor to be had from the Hub."""
    folder = resolve(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"{role}: {folder} has no config.json; it is not a Hugging Face model folder")
        return
    reason = "no such folder"
    if HUB_ID.fullmatch(name) and not resolve(name.partition("/")[0]).exists():
        reason = _why_not_from_hub(name)
        if reason is None:
            return
    raise BadInput(f"{role}: {name!r} is neither a folder here nor a model of the Hub ({reason})")


def _why_not_from_hub(name: str) -> str | None:
    """Why a model's config.json can't be had from the Hub (or its local cache); None where it can."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry
    try:
        hf_hub_download(name, "config.json")
    except (HfHubHTTPError, OSError, ValueError) as error:
        return str(error).strip().splitlines()[0]
    return None
