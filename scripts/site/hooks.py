"""What mkdocs (mkdocs.yml) does beside its own work: pages nobody listed, and links out of docs/."""

import re
from pathlib import Path
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]*\)")


def on_config(config: Any) -> Any:
    """Put pages that the navigation does not list at its end, so that none is forgotten."""
    listed = set(_pages(config.nav))
    pages = sorted(path.name for path in Path(config.docs_dir).glob("*.md"))
    if more := [page for page in pages if page not in listed]:
        config.nav = [*config.nav, {"More": more}]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A link to a file of the repository outside of docs/ is no page of the site: its text stays."""
    return OUTSIDE.sub(r"\1", markdown)


def _pages(nav: Any) -> list[str]:
    """The file names of a navigation."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in _pages(part)]
