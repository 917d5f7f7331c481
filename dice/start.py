"""Before round 1: what can be known to be wrong is found, and nothing is written before that."""

import difflib
import importlib.util
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from dice import chat, evaluate, launch, sources, store, trainer, upstream
from dice.console import say
from dice.engines import resolve_engine
from dice.errors import BadInput, StageFailed
from dice.recipe import ROOT, Recipe, resolve
from dice.recipe_io import load_recipe, load_resolved
from dice.stage import differences


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
    if recipe.prepare:
        prepare(recipe.prepare)
    check_data(recipe)
    for role in ("policy", "reference") if real else ():
        check_model(role, getattr(recipe, role))
    return _write(recipe)


def _write(recipe: Recipe) -> store.Run:
    before = recipe.run_dir / "recipe.yaml"
    if before.exists():
        for change in differences(asdict(load_resolved(before)), asdict(recipe)):
            say(f"recipe    {change}", mark="!")
    return store.create_run(recipe)


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
    trainer.batch_sizes(recipe.train.global_batch_size, 1, launch.workers_per_node() * launch.node_count())


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
    before = recipe.run_dir / "recipe.yaml"
    if before.exists() and load_resolved(before).train.args.keys() >= args.keys():
        return
    known = upstream.argument_names()
    for name in sorted(args.keys() - known):
        close = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise BadInput(f"unknown key 'train.{name}': neither DICE nor LLaMA-Factory has it{hint}")


def check_data(recipe: Recipe) -> None:
    """Read every data set of the recipe to its end. Raises BadInput, naming key, file and line."""
    sets = {"prompts": (sources.read_prompts, recipe.prompts)}
    if recipe.replay.gamma > 0:
        sets["replay.dataset"] = (sources.read_preferences, recipe.replay.dataset)
    if recipe.evaluate.prompts:
        sets["evaluate.prompts"] = (sources.read_prompts, recipe.evaluate.prompts)
        evaluate.load_judge(recipe.evaluate.judge)
    for key, (read, name) in sets.items():
        try:
            read(recipe.dataset_dir, name)
        except BadInput as error:
            raise BadInput(f"{key}: {error}") from error


def check_model(role: str, name: str) -> None:
    """Raises BadInput where a model is neither a folder with a config.json nor to be had from the Hub."""
    folder = resolve(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise BadInput(f"{role}: {folder} has no config.json; it is not a Hugging Face model folder")
        return
    looks_like_hub_id = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    reason = "no such folder"
    if looks_like_hub_id:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        try:
            hf_hub_download(name, "config.json")
            return
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
    raise BadInput(f"{role}: {name!r} is neither a folder here nor a model of the Hub ({reason})")
