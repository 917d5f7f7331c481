"""The model card of an export: what a reader of the Hub, or oneself in a year, wants to know of a model."""

import html
import json
import re
from pathlib import Path
from typing import Any

import yaml

from dice.errors import BadInput, printable
from dice.models.checkpoint import HUB_ID
from dice.recipe.keys import resolve
from dice.recipe.load import resolved_yaml
from dice.run import files
from dice.run.run import Run
from dice.stages import evaluate, train
from dice.stages.order import ROUND

MARKDOWN = re.compile(r"[\\`*_\[\]|~]")  # what would not be itself in the middle of a line
FENCE = "````"
SIGNATURE = "<!-- written by `dice export` -->"
METHOD = (
    "Trained by [DICE](https://arxiv.org/abs/2406.09760): in every round the model answers prompts, {judge} "
    "ranks the answers, and DPO goes on with the best and the worst of them, mixed with offline pairs."
)
RANKS = {
    "implicit": "its own DPO implicit reward",
    "reward_model": "a scalar reward model",
    "judge": "a judge",
    "random": "chance",
}


def of_round(run: Run, t: int) -> str:
    """The card of round t's model: figures of all rounds up to it, data, recipe, versions."""
    recipe = run.recipe
    front = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "preference-optimization", "dice"],
        **({"base_model": recipe.policy} if _on_hub(recipe.policy) else {}),
    }
    trained = train.STAGE.manifest(run, t)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{SIGNATURE}",
        f"# {recipe.run}, round {t} of DICE",
        METHOD.format(judge=RANKS[recipe.score.reward]),
        _facts(run, t),
        "## Rounds\n\n" + _table([_round(run, number) for number in range(1, t + 1)]),
    ]
    if results := _results(run):
        judge = _code(str(recipe.evaluate.judge))
        parts.append(f"## Evaluation\n\nJudged by {judge}.\n\n" + _table(results))
    versions = ", ".join(f"{name} {version}" for name, version in trained.versions.items())
    parts += [
        f"## Recipe\n\n{FENCE}yaml\n{resolved_yaml(recipe).replace(FENCE, '')}{FENCE}",
        f"Versions: {versions}. DICE commit {trained.commit or 'unknown'}.",
    ]
    return "\n\n".join(parts) + "\n"


def plain(source: str) -> str:
    """The card of a checkpoint that belongs to no run."""
    name = Path(source).name
    return (
        f"---\nlibrary_name: transformers\n---\n{SIGNATURE}\n\nExported from the checkpoint {_code(name)}.\n"
    )


def _plain(text: Any) -> str:
    """A text that is shown as it is, whatever of Markdown or HTML it holds, in one line."""
    line = html.escape(printable(" ".join(str(text).split())), quote=False)
    return MARKDOWN.sub(r"\\\g<0>", line)


def _code(text: str) -> str:
    """A text in the type of code; a backtick would end it."""
    return f"`{printable(text).replace('`', chr(39))}`"


def is_ours(folder: Path) -> bool:
    """Whether an export lies in a folder."""
    readme = folder / "README.md"
    return readme.is_file() and SIGNATURE in readme.read_text(encoding="utf-8", errors="replace")


def _facts(run: Run, t: int) -> str:
    recipe = run.recipe
    kind = recipe.train.args["finetuning_type"]
    facts = {
        "starting point": _plain(recipe.policy),
        "its reference": _plain(recipe.reference),
        "chat template": f"{_code(recipe.template)} (LLaMA-Factory)",
        "prompts": _plain(recipe.prompts),
        "offline preferences": f"{_plain(recipe.replay.dataset)}, gamma {recipe.replay.gamma:g}",
        "training": f"DPO, {kind}{', merged into the base' if kind == 'lora' else ''}",
        "round": f"{t} of {recipe.rounds}",
        "seed": recipe.seed,
    }
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in facts.items())


def _round(run: Run, t: int) -> dict[str, Any]:
    done = {stage.name: stage.manifest(run, t) for stage in ROUND}
    rows = {name: manifest.rows_out if manifest else 0 for name, manifest in done.items()}
    paired, trained = (done[name].figures if done[name] else {} for name in ("pair", "train"))
    last = _last_step(run.round_dir(t) / "curves.jsonl")
    return {
        "round": t,
        "responses": f"{rows['generate']:,}",
        "scored": f"{rows['score']:,}",
        "pairs": f"{paired.get('generated', 0):,} + {paired.get('offline', 0):,} offline",
        "alpha": f"{paired.get('alpha', 0):.4g}",
        "length difference": f"{paired.get('length_difference', 0):+.1f}",
        "trained on": f"{trained.get('train_rows', 0):,}",
        "loss": f"{last['loss']:.3f}" if last else "-",
        "accuracy": f"{last['rewards/accuracies']:.0%}" if last else "-",
    }


def _last_step(curves: Path) -> dict[str, float]:
    """Loss and accuracy of the last step that was logged; empty where none was. Raises BadInput."""
    last: dict[str, float] = {}
    if not curves.exists():
        return last
    with files.open_file(curves) as file:
        for number, line in enumerate(file, 1):
            try:
                step = json.loads(line)
                if "loss" in step:
                    last = {key: float(step[key]) for key in ("loss", "rewards/accuracies")}
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                raise BadInput(f"{curves}:{number}: not a step of a training ({error})") from None
    return last


def _results(run: Run) -> list[dict[str, str]]:
    manifest = evaluate.STAGE.manifest(run, 0)
    return [
        {
            "model": result["model"],
            "quality": f"{result['quality']:.3f}",
            "win rate against DPO": _rate(result["win_rate"], result["win_rate_error"]),
            "mean length": f"{result['mean_chars']:.1f} characters",
        }
        for result in (manifest.figures.get("results", []) if manifest else [])
    ]


def _rate(rate: float | None, error: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%} ± {error:.1%}"


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_plain(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _on_hub(name: str) -> bool:
    return bool(HUB_ID.fullmatch(name)) and not resolve(name).is_dir()
