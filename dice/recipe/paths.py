"""Where the project and its recipes lie, and what a recipe's relative paths mean."""

import errno
import os
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "scripts" / "run_dice" / "recipes"


def resolve(path: str) -> Path:
    """A path of a recipe; relative ones are relative to the repository."""
    return ROOT / path


def here() -> Path:
    """The folder that the user stands in. Scripts go to the repository; they say where they were started."""
    return Path(os.environ.get("DICE_HERE") or Path.cwd())


def may_exist(path: Path) -> bool:
    """Whether a file system takes such a path: nothing too long, no half characters, no zero bytes."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    except ValueError:
        return False
    return True


def is_function(name: str | None) -> bool:
    """Whether a source of rewards is a function of the user's: path/to/file.py:function."""
    return bool(name and re.fullmatch(r".+\.py:\w+", name))


def recipe_names() -> list[str]:
    """Names of the recipes that come with DICE."""
    return sorted(path.parent.name for path in RECIPES.glob("*/dice.yaml"))
