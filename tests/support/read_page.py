"""A run whose report is looked at in a browser: two rounds with pairs to read, and an evaluation."""

from pathlib import Path

import fake_world
from reported import write_answers, write_evaluation, write_pairs, write_samples, write_training

from dice.recipe import load
from dice.run.run import Run, create_run

ATTACK = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
LONG = "unbroken" * 60
WORDS = ("apple", "bread", "cloud", "dream", "eagle", "flame", "grape", "horse", "island", "jungle", "lemon")
FORMULA = "=1+1"  # what a spreadsheet would compute
CARDS = "document.querySelectorAll('article').length"
FIRST_PROMPT = "document.querySelector('article .turn').lastChild.textContent"


def make_run(folder: Path, name: str) -> Run:
    """Two rounds whose pairs have tokens, one of them with an attack in all its texts; evaluated."""
    settings = fake_world.make_settings(fake_world.make_data(folder / "data"), folder / "results")
    run = create_run(load.load_recipe("tiny", [*settings, f"run={name}"]))
    table = {
        f"Say {word}.": [(f"good {word}", 3.0 - i / 9), (f"bad {word}", -1.0), (FORMULA, 0.0)]
        for i, word in enumerate(WORDS)
    }
    table[f"Attack {ATTACK}"] = [(f"now {ATTACK}", 0.5), (f"{LONG} \x1b[31m {ATTACK}", -0.5)]
    for t in (1, 2):
        write_samples(run, t, table)
        write_pairs(run, t)
        write_training(run, t)
    write_evaluation(run, (0.6, 0.55, 0.01, 110.0), (0.7, 0.6, 0.01, 120.0))
    models = ("SFT", "DPO", "round-1", "round-2")
    answers = {model: [(f"{model} says {ATTACK}", i / 4), (LONG, 0.0)] for i, model in enumerate(models)}
    write_answers(run, {f"Asked {number}?": answers for number in range(3)})
    return run
