"""`python -m dice init FOLDER`: a recipe of one's own, made of a model and preference pairs.

The folder is written whole or not at all. The template is found by the model's own chat template, the sizes
by the data and by what `plan` estimates for the machine.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from dice.errors import BadInput
from dice.launch import hardware
from dice.launch.console import console, say, shown
from dice.models import llamafactory
from dice.models.chat_template import load_chat, load_tokenizer
from dice.models.checkpoint import base_of, check_model
from dice.models.encoding import Chat
from dice.models.find_template import OtherSystemPrompt
from dice.recipe.keys import AUTO
from dice.recipe.paths import here, recipe_names, resolve
from dice.run import files
from dice.stages.data_checks import naming
from dice.tools.init import texts
from dice.tools.init.data import read
from dice.tools.init.sizes import TRIAL, Models, fit, lengths_of
from dice.tools.plan.forecast import memory_advice
from dice.tools.plan.sizes import size_of


def make_recipe(
    folder: str,
    model: str,
    pairs: str,
    prompts: str | None = None,
    gpus: str | None = None,
    reference: str | None = None,
    template: str | None = None,
) -> None:
    """Write a recipe into a new folder, and say what was decided and why.

    Without a `reference` the model is an SFT model, and the recipe makes a DPO start of it first. Raises
    BadInput for a folder that holds files, and for models, data or GPUs that are of no use.
    """
    target = _free(folder)
    machine = hardware.parse_gpus(gpus) if gpus else hardware.find()
    llamafactory.hush()
    models, chat = _models(target, model, reference, template)
    data = read(pairs, prompts, chat)
    size = size_of(models.reference)
    data, lengths = lengths_of(data, size.context if size else None, machine.device.is_gpu)
    if machine.device.is_gpu and not models.is_there:  # a DPO model that is there has seen the pairs
        data = data.with_held_out()
    with _whole(target) as work:
        data.write(work)
        found = fit(models, data, lengths, machine, work)
        if not machine.device.is_gpu and sum(found.seconds) > TRIAL:
            data = data.part(TRIAL / sum(found.seconds))
            data.write(work)
            found = fit(models, data, lengths, machine, work)
        told = texts.decisions(models, data, found, machine)
        texts.write(work, shown(target), models, found, told)
    say(f"init      {shown(target)}", mark="+")
    for topic, text in told.items():
        console.print(f"    {topic:<10}{text}")
    if advice := memory_advice(found.planned):
        say(advice, mark="!")
    console.print(f"\nnext:\n{texts.commands(folder, models)}")


def _free(folder: str) -> Path:
    """Where the recipe goes. Raises BadInput where something is, and for what can't be a recipe's name."""
    target = (here() / folder).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"{folder}: there is something already; init writes into a new or empty folder")
    if not re.fullmatch(r"\w[\w.-]*", target.name):
        raise BadInput(f"{folder}: the run will have the folder's name, which has letters, digits, . _ -")
    if target.name in recipe_names():
        raise BadInput(f"{folder}: a recipe that comes with DICE has this name; take another")
    return target


def _models(target: Path, model: str, reference: str | None, template: str | None) -> tuple[Models, Chat]:
    """The models, and the tokenizer with its template. Raises BadInput where one of them is of no use."""
    model, reference = _found("--model", model), reference and _found("--reference", reference)
    if model == reference:
        raise BadInput(f"--reference: {reference} is --model as well; it is the model before its DPO")
    is_adapter = base_of(model) is not None
    if is_adapter and not reference:
        advice = f"merge it first: python -m dice export {model} --output=FOLDER"
        raise BadInput(f"--model: {model} is an adapter; {advice}")
    why = "as given" if template else "by the model's own chat template"
    with naming("--model"):
        load_tokenizer(model)
    try:
        chat = load_chat(model, template or AUTO)
    except OtherSystemPrompt as nearest:
        chat, why = load_chat(model, nearest.template), "the model's own but for the default system prompt"
    except BadInput as error:
        told = f"--template: {error}" if template else f"--model: {error}; --template=NAME names it"
        raise BadInput(told) from None
    policy = model if reference else shown(target / "start")
    return Models(policy, reference or model, chat.name, why, bool(reference), is_adapter), chat


def _found(role: str, name: str) -> str:
    """A model by the name that a recipe has for it. Raises BadInput where there is none."""
    if not resolve(name).exists() and (here() / name).is_dir():
        name = str(here() / name)
    check_model(role, name)
    return name


@contextlib.contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder to write in, which gets the name `target` at the end, if all goes well."""
    work = target.with_name(f".{target.name}.partial")
    try:
        files.remove(work)
        work.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"{shown(target)}: can't be made ({error.strerror})") from None
    try:
        yield work
        work.replace(target)
    finally:
        files.remove(work)
