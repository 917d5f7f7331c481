"""The documentation: every key of a recipe with its default, and a site without warnings."""

import importlib.util
import re
import sys

import pytest
import yaml
from commands import run_script

from dice.recipe.keys import GROUPS, Recipe, known_keys
from dice.recipe.paths import ROOT


def as_yaml(value):
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()


def keys_and_defaults():
    """Every key of a recipe with its default as YAML writes it; "required" without one."""
    found = {}
    for key in known_keys():
        group, _, name = key.rpartition(".")
        spec = GROUPS.get(group, Recipe).model_fields[name]
        found[key] = "required" if spec.is_required() else as_yaml(spec.default)
    return found


def test_recipes_md_has_every_key_with_its_default():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| (.+) \|$", text, re.MULTILINE)
    documented = {key: default.strip().strip("`") for key, default, _ in rows}
    expected = keys_and_defaults() | {"run": "the recipe's name"}
    assert documented == expected and len(rows) == len(expected)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("material") is None,
    reason="mkdocs-material is not installed: pip install -e '.[docs]'",
)
def test_the_site_builds_without_warnings(tmp_path):
    built = run_script(
        sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING -" not in built.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {path.stem for path in (tmp_path / "site").glob("*.html")}
    quickstart = (tmp_path / "site" / "quickstart.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([\w-]+\.html)', quickstart)
    assert {f"{page}.html" for page in pages} <= {*links}, "a page that the navigation does not lead to"
    assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!127)', quickstart)
