"""The pages of Markdown that tools write, by jinja2."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template


def template(name: str, **options: Any) -> Template:
    """A template of this folder; `options` are jinja2's."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    return environment.get_template(name)
