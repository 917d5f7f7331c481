"""The model card of an export: what a reader of the Hub, or oneself in a year, wants to know of a model."""

import html
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from dice.errors import printable
from dice.launch.console import with_error
from dice.recipe.load import resolved_yaml
from dice.run.run import Run
from dice.stages import evaluate, train
from dice.stages.order import ROUND
from dice.tools import card_header
from dice.tools.card_header import without_folders
from dice.tools.curves import read_curves
from dice.tools.templates import template

MARKDOWN = re.compile(r"[\\`*_\[\]|~]")  # what would not be itself in the middle of a line
FENCE = "````"
SIGNATURE = "<!-- written by `dice export` -->"
RANKS = {
    "implicit": "its own DPO implicit reward",
    "reward_model": "a scalar reward model",
    "judge": "a judge",
    "random": "chance",
}


def of_round(run: Run, t: int, pairs: str | None = None) -> str:
    """The card of round t's model: figures of all rounds up to it, data, recipe, versions.

    `pairs` is the Hub's data set that has the pairs of these rounds. Paths of this machine are cut short.
    """
    recipe, trained, judged = run.recipe, train.STAGE.manifest(run, t), evaluate.STAGE.manifest(run, 0)
    return template("model_card.md", finalize=_shown).render(
        code=code,
        table=_table,
        front=Markup(card_header.of_recipe(recipe, pairs)),
        signature=Markup(SIGNATURE),
        recipe=recipe,
        t=t,
        ranks=RANKS.get(recipe.score.reward, f"the function {recipe.score.reward}"),
        kind=recipe.train.args["finetuning_type"],
        rounds=[_round(run, number) for number in range(1, t + 1)],
        results=judged.figures.get("results", []) if judged else [],
        with_error=with_error,
        recipe_yaml=Markup(without_folders(resolved_yaml(recipe)).replace(FENCE, "")),
        versions=", ".join(f"{name} {version}" for name, version in trained.versions.items()),
        commit=trained.commit or "unknown",
    )


def plain(source: str) -> str:
    """The card of a checkpoint that belongs to no run."""
    name = Path(source).name
    return (
        f"---\nlibrary_name: transformers\n---\n{SIGNATURE}\n\nExported from the checkpoint {code(name)}.\n"
    )


def is_ours(folder: Path) -> bool:
    """Whether an export lies in a folder."""
    readme = folder / "README.md"
    return readme.is_file() and SIGNATURE in readme.read_text(encoding="utf-8", errors="replace")


def _shown(value: Any) -> Any:
    """What is put into a card, unless it is markup of our own."""
    return value if isinstance(value, Markup) else _plain(value)


def _plain(text: Any) -> str:
    """A text that is shown as it is, whatever of Markdown or HTML it holds, in one line."""
    line = html.escape(printable(without_folders(" ".join(str(text).split()))), quote=False)
    return MARKDOWN.sub(r"\\\g<0>", line)


def code(text: str) -> Markup:
    """A text in the type of code; a backtick would end it."""
    return Markup(f"`{printable(without_folders(text)).replace('`', chr(39))}`")


def _table(rows: list[dict[str, Any]]) -> Markup:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_plain(row[name]) for name in names] for row in rows)]
    return Markup("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def _round(run: Run, t: int) -> dict[str, Any]:
    done = {stage.name: stage.manifest(run, t) for stage in ROUND}
    rows = {name: manifest.rows_out if manifest else 0 for name, manifest in done.items()}
    paired, trained = (done[name].figures if done[name] else {} for name in ("pair", "train"))
    curves = run.round_dir(t) / "curves.jsonl"
    steps = [step for step in (read_curves(curves) if curves.exists() else []) if "loss" in step]
    last = steps[-1] if steps else {}  # of the steps that were logged
    return {
        "round": t,
        "responses": f"{rows['generate']:,}",
        "scored": f"{rows['score']:,}",
        "pairs": f"{paired.get('generated', 0):,} + {paired.get('offline', 0):,} offline",
        "alpha": f"{paired.get('alpha', 0):.4g}",
        "length difference": f"{paired.get('length_difference', 0):+.1f}",
        "trained on": f"{trained.get('train_rows', 0):,}",
        "loss": f"{last['loss']:.3f}" if last else "-",
        "accuracy": f"{last['rewards/accuracies']:.0%}" if "rewards/accuracies" in last else "-",
    }
