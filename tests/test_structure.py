"""The shape of the project, looked up in its files; and what the README says of it."""

import ast
import re
import subprocess
import sys
from importlib import metadata

import house
import pytest
from house import PACKAGE, ROOT

import dice
from dice.recipe.load import load_recipe
from dice.recipe.paths import recipe_names

MODULES = sorted(house.modules())
FOLDERS = ("dice", "llama-factory/src", "scripts", "speed", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def floors() -> dict[str, int]:
    """The floor of each entry of the package, counted from the top of its docstring's order."""
    order = next(line for line in dice.__doc__.splitlines() if ">" in line)
    return {name: floor for floor, names in enumerate(order.split(">")) for name in re.findall(r"\w+", names)}


def test_every_entry_has_a_floor_and_they_are_few():
    entries = {
        path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert entries - {"__init__"} == floors().keys()
    assert len(entries) <= 13


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
    """So the core, which is all below `tools`, never imports a tool."""
    ours, floor = house.room(module), floors()
    rooms = {house.room(other) for other in house.imports(module)} - {ours, "__init__"}
    if ours != "__init__":
        assert not {other for other in rooms if floor[other] <= floor[ours]}


def test_there_is_no_circle_even_inside_a_folder():
    assert not house.circles()


def test_pairing_is_pure():
    """numpy, what Python brings along, and the errors."""
    allowed = {"numpy", "dice", *sys.stdlib_module_names}
    for path in (PACKAGE / "pairing").glob("*.py"):
        assert house.libraries(path) <= allowed
    for module in MODULES:
        if house.room(module) == "pairing":
            assert {house.room(other) for other in house.imports(module)} <= {"pairing", "errors"}


def test_a_packages_init_only_hands_names_on():
    for path in PACKAGE.glob("*/__init__.py"):
        tree = house.tree_of(path)
        assert ast.get_docstring(tree).count("\n") == 0, f"{path}: a newcomer needs one line"
        assert all(isinstance(node, ast.ImportFrom | ast.Expr | ast.Assign) for node in tree.body)


def test_files_and_functions_stay_short():
    lines = {str(path): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert not {path: count for path, count in lines.items() if count > 300}
    long = {f"{path}: {name}": n for path in FILES for name, n in house.functions(path) if n > 50}
    assert not long


def test_llama_factory_is_imported_through_one_door():
    pattern = re.compile(r"^\s*(from|import) llamafactory", re.MULTILINE)
    assert not [path for path in PACKAGE.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]


def test_every_library_that_is_imported_is_pinned():
    """By requirements.txt or an extra of setup.py, and not only because another library needs it today."""

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pins = "".join((ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "setup.py"))
    pinned = {plain(name) for name in re.findall(r"([\w.-]+)==\d", pins)}
    beside = (path.stem for path in FILES if PACKAGE not in path.parents)
    ours = {"dice", *beside, *sys.stdlib_module_names}
    provided = {"mlflow": ["mlflow-skinny"]} | metadata.packages_distributions()
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in FILES
        for name in house.libraries(path) - ours
        if pinned.isdisjoint(map(plain, provided.get(name, [name])))
    }
    assert not missing


def test_light_commands_load_no_heavy_library():
    light = "dice.__main__, dice.stages.pair, dice.tools.status, dice.stages.prepare"
    heavy = ["torch", "transformers", "llamafactory", "vllm", "datasets"]
    code = f"import sys, {light}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def known_commands() -> set[str]:
    """The commands that `python -m dice --help` lists."""
    shown = subprocess.run([sys.executable, "-m", "dice", "--help"], cwd=ROOT, capture_output=True, text=True)
    return set(re.findall(r"^  (\w+) ", shown.stdout, re.MULTILINE))


def test_there_is_a_command_for_every_stage(known_commands):
    assert known_commands >= {"generate", "score", "pair", "train", "evaluate", "status"}


DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
DOCUMENTS += [ROOT / "llama-factory" / "README.md", *(ROOT / "scripts").rglob("README.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_and_command_in_the_documents_exists(document, known_commands):
    text = document.read_text(encoding="utf-8")
    top = "dice|scripts|tests|data|docs|llama-factory|speed|[.]ci"
    paths = set(re.findall(rf"(?<![\w/.-])((?:{top})/[\w./-]*[\w/])", text))
    paths |= {link for link in re.findall(r"\]\(([^)#:\s]+)[)\s]", text)}
    made = (
        "data/tiny",
        "data/smollm2",
        "data/ultrafeedback_10k",
        "data/qwen_",
        "results/",
        "llama-factory/upstream",
    )
    missing = [
        path
        for path in paths
        if not path.startswith(made) and not (ROOT / path).exists() and not (document.parent / path).exists()
    ]
    assert not missing

    assert set(re.findall(r"python -m dice ([a-z_]+)", text)) <= known_commands
    for recipe, overrides in re.findall(r"iter\.sh ([\w-]+)([^\n`#]*)", text):
        if recipe in recipe_names():
            load_recipe(recipe, [word.replace("SEED", "1") for word in overrides.split()])
        else:
            assert recipe == "path", f"there is no recipe {recipe}"
    assert not re.findall(r"@[A-Z]+@", text), "a figure is still to be filled in"


def test_the_readmes_tree_names_what_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    tree = re.search(r"```text\ndice-align/\n(.*?)```", readme, re.DOTALL)[1].splitlines()
    missing, parents = [], []
    for line in tree:
        prefix, names = re.match(r"([ │├└─]*)([\w.-]+(?:, [\w.-]+)*)", line).groups()
        parents = parents[: len(prefix) // 4 - 1]
        missing += [name for name in names.split(", ") if not ROOT.joinpath(*parents, name).exists()]
        parents.append(names)
    assert 15 < len(tree) <= 40 and not missing
    assert {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__pycache__"} <= set(
        re.findall(r"[\w.]+", "\n".join(tree))
    )
