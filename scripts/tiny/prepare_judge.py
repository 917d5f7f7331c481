"""Make a judge for the tiny world: its SFT model, trained to grade answers from 0 to 5.

    python scripts/tiny/prepare_judge.py

The policies of the tiny world know nothing but its requests, so none of them can grade. This judge has
read 12,000 answers with grades: their quality, and the annotator's taste for length, but not its noise. It
goes to data/tiny/judge, is made once (some minutes on 2 CPU cores), and is the same every time; the rest
of the world is as prepare.py makes it.
"""

import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import prepare
import world
from dice.launch.console import run, say
from dice.rewards.grades import HIGHEST
from dice.run import files
from dice.run.digests import file_digest

ANSWERS = 12000
SEED = 43
MADE_FROM = ("judge.txt", "judge.yaml", "prepare_judge.py")


def graded_answers() -> list[dict[str, Any]]:
    """Requests, answers, the judge's prompt and grades, in LLaMA-Factory's alpaca format; none held out."""
    rng = random.Random(SEED)
    held_out = {row["instruction"] for row in prepare.data_sets()["held_out"]}
    known = [request for request in world.all_requests() if request.text not in held_out]
    prompt = (prepare.HERE / "judge.txt").read_text(encoding="utf-8").strip()
    rows = []
    for _ in range(ANSWERS):
        request = rng.choice(known)
        answer = world.noisy_answer(request, rng)
        given = str(grade(request.text, answer))
        rows.append({"history": [[request.text, answer]], "instruction": prompt, "output": given})
    return rows


def grade(prompt: str, response: str) -> int:
    """A grade from 0 to 5: the quality, with the bias for length of the annotator of the preferences."""
    fillers = response.count(".") - 1
    liking = world.quality(prompt, response) + world.LENGTH_BIAS * fillers
    return min(HIGHEST, max(0, round(HIGHEST * liking)))


def main() -> None:
    prepare.main()
    sources = {name: file_digest(prepare.HERE / name) for name in MADE_FROM}
    stamp, judge = prepare.WORLD / "judge-sources.json", prepare.WORLD / "judge"
    if files.read_json(stamp) != sources:
        files.remove(judge)
        files.write_json(stamp, sources)
    if judge.exists():
        return
    say("making the tiny world's judge (once)")
    files.write_array(prepare.WORLD / "judge.json", graded_answers())
    prepare.train("judge", prepare.WORLD / "sft")


if __name__ == "__main__":
    run(main)
