"""Answers to read: some of the evaluation's prompts, each answered by every model of the run."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from dice.run import files
from dice.run.rows import Judged, Message, Prompt, Response
from dice.stages import evaluate
from dice.tools.report.collect import Collected
from dice.tools.report.pairs import spread
from dice.tools.report.text import clipped, fitting

PROMPTS = 12
LONGEST = 4000  # characters of a text that are shown
MOST_BYTES = 400_000  # of the page


@dataclass(frozen=True)
class Answer:
    """A model's first answer to a prompt; `quality` is the judge's of it, `mean` that of all its answers."""

    model: str
    text: str
    quality: float
    mean: float


@dataclass(frozen=True)
class Asked:
    """A held-out prompt with an answer of each model, and how much better the last one answers than DPO."""

    messages: list[Message]
    gain: float  # difference of the mean qualities
    answers: list[Answer]


def answers(collected: Collected) -> list[Asked]:
    """The prompts that gained most, that lost most, and random ones; none where their files are gone."""
    folder = evaluate.STAGE.folder(collected.run, 0)
    models = [result.model for result in collected.results if _is_there(folder, result.model)]
    prompts = folder / "prompts.jsonl"
    if "DPO" not in models or not prompts.is_file():
        return []
    grades = {model: _grades(folder / "quality" / f"{model}.jsonl") for model in models}
    asked = [p for p in files.read_rows(prompts, Prompt) if all(p.prompt_id in grades[m] for m in models)]
    means = {m: np.array([fmean(grades[m][p.prompt_id].values()) for p in asked]) for m in models}
    gains = means[models[-1]] - means["DPO"]
    taken = spread(gains, PROMPTS, collected.run.recipe.seed)
    texts = {m: _first(folder / "responses" / m, {asked[i].prompt_id for i in taken}) for m in models}

    def answer(model: str, i: int) -> Answer:
        prompt = asked[i].prompt_id
        text = clipped(texts[model][prompt], LONGEST)
        return Answer(model, text, grades[model][prompt][0], float(means[model][i]))

    shown = [Asked(_clipped(asked[i]), float(gains[i]), [answer(m, i) for m in models]) for i in taken]
    return fitting(shown, size, MOST_BYTES)


def _clipped(prompt: Prompt) -> list[Message]:
    return [Message(role=m["role"], content=clipped(m["content"], LONGEST)) for m in prompt.messages]


def _is_there(folder: Path, model: str) -> bool:
    return (folder / "quality" / f"{model}.jsonl").is_file() and bool(
        files.shards(folder / "responses" / model)
    )


def _grades(path: Path) -> dict[str, dict[int, float]]:
    """The judge's qualities by prompt and sample."""
    found = defaultdict(dict)
    for row in files.read_rows(path, Judged):
        found[row.prompt_id][row.sample] = row.quality
    return found


def _first(folder: Path, prompts: set[str]) -> dict[str, str]:
    """The first answer to each of the prompts."""
    rows = (row for path in files.shards(folder) for row in files.read_rows(path, Response))
    return {row.prompt_id: row.response for row in rows if row.sample == 0 and row.prompt_id in prompts}


def size(asked: Asked) -> int:
    """About how many bytes of the page its texts take."""
    texts = [message["content"] for message in asked.messages] + [answer.text for answer in asked.answers]
    return sum(len(text.encode(errors="replace")) for text in texts)
