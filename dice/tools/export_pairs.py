"""The pairs of a run's rounds as a data set for the Hub: a file for each round, and a card."""

import json
import shutil
from pathlib import Path

from dice.data.dataset_dir import ENTRY
from dice.run import files
from dice.run.run import Run
from dice.run.stage import require
from dice.stages import pair
from dice.tools.model_card import code
from dice.tools.templates import template


def repository(model: str) -> str:
    """The data set's name on the Hub, beside that of the model."""
    return f"{model}-pairs"


def check(run: Run, t: int) -> None:
    """Raises BadInput where a round up to t has no finished pairs."""
    for number in range(1, t + 1):
        require(pair.STAGE, run, number)


def write(run: Run, t: int, model: str, folder: Path) -> None:
    """Write the generated pairs of rounds 1 to t. The offline pairs, which are others' data, stay here."""
    rounds = []
    for number in range(1, t + 1):
        shutil.copy2(run.round_dir(number) / "dataset" / "dataset.json", folder / f"round-{number}.json")
        figures = pair.STAGE.manifest(run, number).figures
        rounds.append({"number": number, "pairs": figures.get("pairs", 0), "alpha": figures.get("alpha", 0)})
    others = run.recipe.prompts_per_round or len(run.recipe.prompt_sets) > 1
    card = template("pairs_card.md").render(
        rounds=rounds,
        model=model,
        repository=repository(model),
        asked="other prompts" if others else "every prompt",
        prompts=code(", ".join(run.recipe.prompt_sets)),
        reward=code(run.recipe.score.reward),
        entry=json.dumps(
            {"round_1": {"hf_hub_url": repository(model), "subset": "round-1", **ENTRY}}, indent=2
        ),
    )
    files.write_text(folder / "README.md", card)
    for path in folder.iterdir():
        files.open_to_readers(path)
