"""The page: one HTML file with everything in it. It loads nothing, and runs no script but its own."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dice import __version__
from dice.launch.console import with_error
from dice.recipe.load import resolved_yaml
from dice.tools.benchmarks.results import remarks, score
from dice.tools.report import tables
from dice.tools.report.answers import Asked
from dice.tools.report.beside import Beside
from dice.tools.report.collect import Collected
from dice.tools.report.svg import Plot
from dice.tools.report.text import duration, embedded, minus, visible
from dice.tools.report.verdict import verdict

TEMPLATES = Path(__file__).parent / "templates"


def render(
    collected: Collected,
    beside: Beside | None,
    models: list[Plot],
    rounds: dict[int, list[Plot]],
    asked: list[Asked],
    pairs: list[dict[str, Any]],
) -> str:
    """The page as HTML: the run's numbers and plots, another run's beside it, answers and pairs to read."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        run=collected.run,
        recipe_yaml=resolved_yaml(collected.run.recipe),
        version=__version__,
        verdict=verdict(collected),
        collected=collected,
        beside=beside,
        asked=asked,
        models=models,
        plots=rounds,
        glance=tables.glance(collected),
        collapse=tables.collapse(collected),
        times=tables.times(collected),
        rows=tables.rows,
        left_out=tables.left_out,
        duration=duration,
        minus=minus,
        score=score,
        remarks=remarks(collected.benchmarks),
        with_error=with_error,
        versions=tables.versions(collected),
        pairs=pairs,
        data=Markup(embedded(pairs)),
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=_hash(script),
    )


def _harmless(value: Any) -> Any:
    """What is put into the page, unless it is markup of our own."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _hash(script: str) -> str:
    """What a content security policy knows a script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
