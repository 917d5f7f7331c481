"""The shape of the project: import order, what is imported when, and what the README says."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dice
from dice.__main__ import Commands
from dice.recipe import ROOT, recipe_names
from dice.recipe_io import load_recipe

PACKAGE = ROOT / "dice"
MODULES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE
)


def layers() -> list[set[str]]:
    """The import order of the package's docstring, topmost layer first."""
    order = dice.__doc__.split(":\n\n", 1)[1]
    return [set(re.findall(r"\w+", layer)) for layer in order.split(">")]


def name_of(path: Path) -> str:
    return path.stem if path.parent == PACKAGE else path.parent.name


def imported(path: Path) -> set[str]:
    """Modules of the package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "dice":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("dice."):
            found.add(node.module.split(".")[1])
    return {name for name in found if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_import_downwards_only(path):
    level = {name: index for index, layer in enumerate(layers()) for name in layer}
    name = name_of(path)
    assert name in level, f"{name} is missing from the import order in dice/__init__.py"
    upwards = {other for other in imported(path) - {name} if level[other] < level[name]}
    assert not upwards


def test_llama_factory_is_imported_through_one_door():
    pattern = re.compile(r"^\s*(from|import) llamafactory", re.MULTILINE)
    assert not [path for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]


def test_every_command_is_put_off_until_all_its_arguments_are_known():
    commands = [value for name, value in vars(Commands).items() if not name.startswith("_")]
    assert commands and all(hasattr(command, "__wrapped__") for command in commands)


@pytest.mark.parametrize("module", ["dice.__main__", "dice.pair", "dice.status", "dice.start"])
def test_light_commands_load_no_heavy_library(module):
    heavy = ["torch", "transformers", "llamafactory", "vllm", "datasets"]
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_files_stay_short():
    folders = ("dice", "scripts", "llama-factory/src")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*.py")]
    long = {str(path): n for path in files if (n := path.read_text(encoding="utf-8").count("\n")) > 320}
    assert not long


@pytest.fixture(scope="module")
def known_commands() -> set[str]:
    """The commands that `python -m dice --help` lists."""
    command = [sys.executable, "-m", "dice", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return set(re.findall(r"^     (\w+)$", shown.stdout + shown.stderr, re.MULTILINE))


def test_there_is_a_command_for_every_stage(known_commands):
    assert known_commands >= {"generate", "score", "pair", "train", "evaluate", "status"}


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
DOCUMENTS += [ROOT / "llama-factory" / "README.md", *(ROOT / "scripts").rglob("README.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_command_in_the_documents_exists(document, known_commands):
    text = document.read_text(encoding="utf-8")
    top = "dice|scripts|tests|data|docs|llama-factory|benchmarks|[.]ci"
    paths = set(re.findall(rf"(?<![\w/.-])((?:{top})/[\w./-]*[\w/])", text))
    paths |= {link for link in re.findall(r"\]\(([^)#:]+)\)", text)}
    made = ("data/tiny", "data/ultrafeedback_10k", "data/qwen_dpo", "results/", "llama-factory/upstream")
    missing = [
        path
        for path in paths
        if not path.startswith(made) and not (ROOT / path).exists() and not (document.parent / path).exists()
    ]
    assert not missing

    assert set(re.findall(r"python -m dice ([a-z]+)", text)) <= known_commands
    for recipe, overrides in re.findall(r"iter\.sh ([\w-]+)([^\n`#]*)", text):
        if recipe in recipe_names():
            load_recipe(recipe, [word.replace("SEED", "1") for word in overrides.split()])
        else:
            assert recipe == "path", f"there is no recipe {recipe}"
    assert not re.findall(r"@[A-Z]+@", text), "a figure is still to be filled in"


def test_the_readmes_tree_names_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\ndice-align/\n(.*?)```", readme, re.DOTALL)[1]
    missing, parents = [], []
    for line in tree.splitlines():
        prefix, name = re.match(r"([ │├└─]*)([\w.-]+)", line).groups()
        parents = [*parents[: len(prefix) // 4 - 1], name]
        if not ROOT.joinpath(*parents).exists() and name != "results":
            missing.append("/".join(parents))
    assert len(tree.splitlines()) > 30 and not missing
