"""The package's modules, functions and imports, read from its files."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dice.recipe.paths import ROOT

PACKAGE = ROOT / "dice"


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """The modules of the package that one imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree_of(modules()[name])):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "dice":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in modules() else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in modules()}
    return frozenset(found - {name})


@cache
def libraries(path: Path) -> frozenset[str]:
    """The top-level names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return frozenset(found)


def room(name: str) -> str:
    """The entry of the package's top level that a module belongs to."""
    return name.split(".")[1] if "." in name else "__init__"


def circles() -> list[list[str]]:
    """Groups of modules that import each other, directly or by way of others."""
    reached = {name: _reached(name) for name in modules()}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in modules()
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reached(name: str) -> set[str]:
    seen, todo = set(), [name]
    while todo:
        for other in imports(todo.pop()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of every function of a file, those inside others too."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1
