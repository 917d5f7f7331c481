"""The pair stage on 10,000 prompts x 16 responses: CPU time and memory, against dataframe code.

    python speed/pair.py [--prompts=10000] [--times=10] [--numbers=1000000] [--folder=FOLDER]

Makes a round (210 MB of responses as JSON Lines, 5% of them without a score) and an offline set. Every
figure is one process on one core, from its start to its end. The stage reads, finds alpha, pairs, mixes
and writes, and takes the digests of what it read and wrote. The dataframe code does the same work but for
the digests, with the published sweep of alpha, in two ways: plain (each step copies the table and goes
through its prompts) and vectorised (each step groups the whole table). Then the stage on `--times` as
many prompts, and the numbers alone (alpha and pairs, no texts) for `--numbers` prompts; 0 leaves either
out. Ends with a line per figure; exits with 1 where one falls short. About 5 minutes and 6 GB of disk.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import fire
import numpy as np
from figures import Figure, report

from dice.data.round import read_prompts, read_scores
from dice.pairing import length_balance, selection
from dice.pairing.table import Table
from dice.recipe.groups import Pair
from dice.recipe.load import load_recipe
from dice.recipe.paths import ROOT
from dice.run import files
from dice.run.manifests import Manifest
from dice.run.rows import Prompt, Response, Score, prompt_id
from dice.run.run import Run, create_run, open_run
from dice.stages import generate, pair, score
from dice.stages.order import execute

SAMPLES, OFFLINE, SHARD = 16, 10_176, 256
WORDS = ["the", "of", "house", "because", "river", "quick", "under", "said", "people", "water\n"] * 50
WORDS += ["naïve"]  # so that a third of the texts are not ASCII
COLUMNS = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}


def make_run(folder: Path, prompts: int) -> Path:
    """The folder of a run whose round 1 is sampled and scored, with an offline set."""
    data, text = folder / "data", _texts()
    data.mkdir(parents=True)
    entry = {"file_name": "offline.json", "ranking": True, "columns": COLUMNS}
    (data / "dataset_info.json").write_text(json.dumps({"offline": entry}))
    texts = ((f"{i} {text(200)}", text(1200), text(1000)) for i in range(OFFLINE))
    files.write_array(data / "offline.json", (dict(zip(COLUMNS.values(), t, strict=True)) for t in texts))
    keys = f"dataset_dir={data} results_dir={folder} run=run prompts=offline replay.dataset=offline"
    keys += (
        " policy=p reference=r prepare=null evaluate.prompts=null evaluate.judge=null generate.engine=fake"
    )
    run = create_run(load_recipe("tiny", keys.split()))
    write_round(run.round_dir(1), prompts, text)
    write_manifests(run)
    return run.path


def write_manifests(run: Run) -> None:
    """Say of round 1 that it is sampled and scored."""
    nothing = {"inputs": {}, "outputs": {}, "rows_in": 0, "rows_out": 0, "versions": {}, "commit": None}
    for stage, dropped in ((generate.STAGE, {generate.UNANSWERED: 0}), (score.STAGE, {})):
        known = {"stage": stage.name, "round": 1, "recipe": stage.settings(run, 1), "dropped": dropped}
        stage.files(run, 1).finish(Manifest(**known, **nothing, summary="", seconds=0.0))


def _texts() -> Callable[[int], str]:
    """A function that cuts a text of so many characters out of a long random one."""
    rng = random.Random(0)
    long = " ".join(rng.choice(WORDS) for _ in range(200_000))

    def text(length: int) -> str:
        start = rng.randrange(len(long) - length)
        return long[start : start + length]

    return text


def draw(prompts: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rewards that grow by 0.025 nats a character, lengths, and which are scored: (prompts, SAMPLES)."""
    shape = (prompts, SAMPLES)
    lengths = np.clip(rng.lognormal(6.95, 0.45, shape), 10, 6600).astype(np.int32)
    rewards = rng.normal(0, 3, (prompts, 1)) + rng.normal(0, 6, shape) + 0.025 * lengths
    return rewards, lengths, rng.random(shape) > 0.05


def write_round(folder: Path, prompts: int, text: Callable[[int], str]) -> None:
    """prompts.jsonl, responses and scores, a shard at a time."""
    rng, listed = np.random.default_rng(0), []
    for number in range(prompts):
        messages = [{"role": "user", "content": f"{number} {text(200)}"}]
        listed.append(Prompt(prompt_id(messages), messages))
    files.write_rows(folder / "prompts.jsonl", listed)
    for shard, start in enumerate(range(0, prompts, SHARD)):
        part = listed[start : start + SHARD]
        responses, scores = [], []
        drawn = (array.tolist() for array in draw(len(part), rng))
        for prompt, *columns in zip(part, *drawn, strict=True):
            for sample, (reward, size, scored) in enumerate(zip(*columns, strict=True)):
                key = (prompt.prompt_id, sample)
                responses.append(Response(*key, text(size), size, size // 4 + 1, "stop", sample))
                if scored:
                    logps = (reward - size / 3, -size / 3)
                    scores.append(Score(*key, "0" * 32, size, size // 4 + 1, *logps, reward))
        files.write_rows(files.shard_path(folder / "responses", shard), responses)
        files.write_rows(files.shard_path(folder / "scores", shard), scores)


def stage(run: str) -> dict[str, Any]:
    """The whole stage."""
    return {"alpha": execute(pair.STAGE, open_run(run), 1).figures["alpha"]}


def search(run: str) -> dict[str, Any]:
    """Alpha alone, from scores in memory: exactly, and by the published sweep."""
    folder = open_run(run).round_dir(1)
    ids = [prompt.prompt_id for prompt in read_prompts(folder / "prompts.jsonl")]
    table = read_scores(folder / "scores", ids, SAMPLES)
    scores = (table.rewards, table.n_chars, table.present)
    begun = time.process_time()
    for _ in range(5):
        length_balance.balance(*scores).best()
    exact = (time.process_time() - begun) / 5
    return {"exact": exact, "grid alpha": length_balance.sweep(*scores)}


def numbers(prompts: str) -> dict[str, Any]:
    """Alpha and pairs of so many prompts, from random scores in memory, and their health."""
    rewards, lengths, present = draw(int(prompts), np.random.default_rng(0))
    table = Table([], rewards, lengths, lengths, present)
    begun = time.process_time()
    selection.choose(table, np.arange(len(rewards)), Pair(), 0)
    return {"numbers": time.process_time() - begun}


def dataframe(run: str, how: str) -> dict[str, Any]:
    """The stage as dataframe code: read, sweep, pair, mix, write; `how` is plain or vectorised."""
    import pandas as pd

    opened = open_run(run)
    folder, settings = opened.round_dir(1), opened.recipe.pair

    def read(name: str) -> pd.DataFrame:
        parts = [
            pd.read_json(path, lines=True, dtype={"prompt_id": str}) for path in files.shards(folder / name)
        ]
        return pd.concat(parts, ignore_index=True)

    table = read("responses").merge(
        read("scores")[["prompt_id", "sample", "reward"]], on=["prompt_id", "sample"]
    )
    table = table[table.groupby("prompt_id")["sample"].transform("size") >= settings.min_samples]
    begun = time.process_time()
    smallest, found = np.inf, None
    for alpha in np.arange(0, 1, 0.001):
        shaped = table.copy()
        shaped["shaped"] = shaped.reward - alpha * shaped.n_chars
        best, worst = _extremes(shaped, how)
        size = abs(best.n_chars.mean() - worst.n_chars.mean())
        if size > smallest:
            break
        if size < smallest:
            smallest, found = size, (float(alpha), best, worst)
    swept = time.process_time() - begun
    alpha, best, worst = found
    pairs = best.merge(worst, on="prompt_id", suffixes=("_chosen", "_rejected"))
    pairs = pairs[pairs.response_chosen != pairs.response_rejected]
    pairs.to_json(folder / "dataframe.jsonl", orient="records", lines=True)
    offline = pd.read_json(Path(opened.recipe.dataset_dir) / "offline.json")
    drawn = pairs.sample(min(len(offline) // 2, len(pairs)), random_state=0)
    pd.concat([drawn, offline.sample(len(drawn), random_state=0)]).to_json(
        folder / "mixed.jsonl", orient="records"
    )
    return {"alpha": alpha, "sweep": swept}


def _extremes(table: Any, how: str) -> tuple[Any, Any]:
    """Each prompt's row of the highest and of the lowest shaped reward."""
    import pandas as pd

    if how == "vectorised":
        groups = table.groupby("prompt_id", sort=False).shaped
        return table.loc[groups.idxmax()], table.loc[groups.idxmin()]
    best, worst = [], []
    for _, rows in table.groupby("prompt_id", sort=False):
        best.append(rows.loc[rows.shaped.idxmax()])
        worst.append(rows.loc[rows.shaped.idxmin()])
    return pd.DataFrame(best), pd.DataFrame(worst)


@dataclass(frozen=True)
class Used:
    """What a process used, and what it found out."""

    seconds: float  # of CPU, user and system
    memory: float  # GB at its peak
    found: dict[str, Any]


def measure(what: str, *arguments: object) -> Used:
    """Run one of the functions above in a process of its own on one core."""
    core = max(os.sched_getaffinity(0))
    command = [sys.executable, __file__, what, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, env=environment, preexec_fn=lambda: os.sched_setaffinity(0, {core})
        )
        _, status, usage = os.wait4(process.pid, 0)
        output.seek(0)
        lines = output.read().splitlines()
    if status:
        sys.exit(f"{what} failed")
    print(f"  {what} {' '.join(map(str, arguments))}: {usage.ru_utime + usage.ru_stime:.2f} s of CPU")
    return Used(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e6, json.loads(lines[-1]))


def main(prompts: int = 10_000, times: int = 10, numbers: int = 1_000_000, folder: str | None = None) -> None:
    """Make the data, measure, print the figures."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        run = make_run(place / "one", prompts)
        whole, alpha = measure("stage", run), measure("search", run)
        plain, vectorised = (measure("dataframe", run, how) for how in ("plain", "vectorised"))
        larger = measure("stage", make_run(place / "more", prompts * times)) if times else None
    finally:
        shutil.rmtree(place)
    many = measure("numbers", numbers) if numbers else None
    swept = (plain.found["alpha"], vectorised.found["alpha"])
    figures = [
        Figure("stage, CPU seconds", whole.seconds, at_most=2.5),
        Figure("stage, peak memory in GB", whole.memory, at_most=1),
        Figure("plain dataframe code, CPU seconds", plain.seconds),
        Figure("plain dataframe code / stage", plain.seconds / whole.seconds, at_least=15),
        Figure("vectorised dataframe code / stage", vectorised.seconds / whole.seconds),
        Figure(
            "vectorised dataframe sweep / exact alpha",
            vectorised.found["sweep"] / alpha.found["exact"],
            at_least=15,
        ),
        Figure(
            "alpha: grid less dataframe sweeps",
            max(abs(alpha.found["grid alpha"] - a) for a in swept),
            at_most=0,
        ),
    ]
    if larger:
        named = f"{times} times the prompts"
        figures += [
            Figure(f"{named}: times the CPU", larger.seconds / whole.seconds, at_most=1.2 * times),
            Figure(f"{named}: peak memory in GB", larger.memory, at_most=2),
        ]
    if many:
        figures += [
            Figure(f"numbers of {numbers:,} prompts, CPU seconds", many.found["numbers"]),
            Figure(f"numbers of {numbers:,} prompts, peak memory in GB", many.memory),
        ]
    sys.exit(report(figures))


if __name__ == "__main__":
    PARTS = {"stage": stage, "search": search, "numbers": numbers, "dataframe": dataframe}
    if len(sys.argv) > 1 and sys.argv[1] in PARTS:
        print(json.dumps(PARTS[sys.argv[1]](*sys.argv[2:])))
    else:
        fire.Fire(main)
