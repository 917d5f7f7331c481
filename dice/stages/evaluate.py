"""Held-out prompts, answered by every model of a run and judged by the recipe's judge.

A win rate compares a model with the policy that the run started from (round 0): over all pairs of
their answers to a prompt, a better answer counts 1, an equal one 1/2; the rate is the mean over
prompts, its standard error that of the mean over prompts.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dice.data import dataset_info
from dice.data.prompts_and_preferences import read_prompts
from dice.errors import BadInput, counted
from dice.inference.load import dtype_of, engine_named
from dice.launch import processes
from dice.launch.console import console, say, with_error
from dice.launch.processes import Workers
from dice.launch.worker import Worker
from dice.recipe.keys import Recipe
from dice.recipe.paths import resolve
from dice.rewards.function import load_function
from dice.run import files
from dice.run.digests import file_digest, model_digest
from dice.run.manifests import Manifest, differences
from dice.run.rows import Judged, Response
from dice.run.run import Run, is_trusted, open_run, require_trust
from dice.run.stage import Outcome, Stage, makers
from dice.run.state import State
from dice.stages import train
from dice.stages.generate import finished_shards, sample_shards, sampling_settings

load_judge = partial(load_function, "evaluate.judge")


@dataclass(frozen=True)
class Result:
    """One model on the held-out prompts."""

    model: str
    quality: float  # mean, in the judge's units
    win_rate: float | None  # against round 0's policy, 0 to 1; None for that policy itself
    win_rate_error: float | None
    mean_chars: float  # mean answer length in characters


def models(run: Run) -> dict[str, str]:
    """Every model of a run by its name in the table: SFT, DPO, then the rounds that are finished."""
    found = {"SFT": run.reference(1), "DPO": run.policy(1)}
    for t in range(1, run.recipe.rounds + 1):
        if train.STAGE.state(run, t).was_done:
            found[f"round-{t}"] = run.model(t)
    return found


def win_rate(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """Win rate and its standard error from qualities (P, N) and (P, M) of answers to P prompts."""
    difference = ours[:, :, None] - theirs[:, None, :]
    wins = ((difference > 0) + 0.5 * (difference == 0)).mean((1, 2))
    error = wins.std(ddof=1) / math.sqrt(len(wins)) if len(wins) > 1 else math.nan
    return float(wins.mean()), float(error)


def _options(recipe: Recipe) -> Recipe:
    """The recipe with as many samples as an evaluation takes."""
    return recipe.sampling(samples=recipe.evaluate.samples)


def work(worker: Worker, run_dir: str, *names: str) -> None:
    """A worker's share of some models' answers. Evaluation counts as round 0 for the seeds."""
    run = open_run(run_dir)
    folder, recipe = _folder(run, 0), _options(run.recipe)
    prompts, counter = folder / "prompts.jsonl", worker.counter()
    for name in names:
        sample_shards(worker, recipe, models(run)[name], prompts, folder / "responses" / name, 0, counter)


def _folder(run: Run, t: int) -> Path:
    return run.path / "evaluate"


def _inputs(run: Run, t: int) -> dict[str, str]:
    evaluate = run.recipe.evaluate
    digests = {name: model_digest(model) for name, model in models(run).items()}
    judge = resolve(evaluate.judge.rpartition(":")[0])
    digests["judge"] = file_digest(judge) if judge.is_file() else ""
    return digests | {"prompts": dataset_info.digest(run.recipe.dataset_dir, evaluate.prompts)}


def _settings(run: Run, t: int) -> dict[str, Any]:
    recipe = _options(run.recipe)
    return {**sampling_settings(recipe), "evaluate": recipe.evaluate.model_dump(exclude={"preferences"})}


def _workers(run: Run) -> list[Workers]:
    """The workers of all models; of each, where a process can't load one model after the other."""
    names, generate = list(models(run)), run.recipe.generate
    together = engine_named(generate.engine).frees_gpu
    batches = {"all models": names} if together else {name: [name] for name in names}
    return [
        Workers(__name__, _folder(run, 0), [str(run.path), *batch], "prompts", generate.tensor_parallel, part)
        for part, batch in batches.items()
    ]


def _run(run: Run, t: int) -> Outcome:
    recipe, folder = run.recipe, _folder(run, t)
    judge = load_judge(recipe.evaluate.judge)
    prompts, dropped = read_prompts(recipe.dataset_dir, recipe.evaluate.prompts)
    files.write_rows(folder / "prompts.jsonl", prompts)
    rows_read = len(prompts) + dropped.total()
    questions = {prompt.prompt_id: prompt.messages[-1]["content"] for prompt in prompts}
    names = list(models(run))
    for workers in _workers(run):
        processes.run_workers(*workers)
    size = recipe.generate.shard_size
    answers = {name: _answers(folder, name, questions, judge, size) for name in names}
    answered = sorted(set.intersection(*map(set, answers.values())))
    dropped["prompts too long for a model"] = len(prompts) - len(answered)
    if not answered:
        raise BadInput(f"{folder}: every held-out prompt is too long for a model of the run")
    results = [_result(name, answers[name], answers["DPO"], answered) for name in names]
    judged = sum(len(rows) for by_prompt in answers.values() for rows in by_prompt.values())
    return Outcome(
        rows_in=rows_read,
        rows_out=judged,
        summary=f"{counted(judged, 'answer')} to {counted(len(prompts), 'held-out prompt')} judged",
        dropped=dict(dropped),
        figures={"results": [asdict(result) for result in results], **dtype_of(recipe)},
    )


def _answers(
    folder: Path, name: str, questions: dict[str, str], judge: Callable[[str, str], float], size: int
) -> dict[str, list[tuple[float, int]]]:
    """(quality, characters) of one model's answers by prompt; the qualities are also written down."""
    by_prompt = defaultdict(list)
    judged = []
    for shard in finished_shards(folder / "responses" / name, len(questions), size):
        for r in files.read_rows(shard, Response):
            judged.append(Judged(r.prompt_id, r.sample, _quality(judge, questions[r.prompt_id], r.response)))
            by_prompt[r.prompt_id].append((judged[-1].quality, r.n_chars))
    files.write_rows(folder / "quality" / f"{name}.jsonl", judged)
    return by_prompt


def _quality(judge: Callable[[str, str], float], prompt: str, response: str) -> float:
    try:
        quality = float(judge(prompt, response))
    except Exception as error:
        raise BadInput(f"evaluate.judge fails on {prompt!r:.60}: {type(error).__name__}: {error}") from error
    if not math.isfinite(quality):
        raise BadInput(f"evaluate.judge gives {quality} to an answer to {prompt!r:.60}; it must be finite")
    return quality


def _result(name: str, ours: dict[str, list], theirs: dict[str, list], prompts: list[str]) -> Result:
    """One model's figures on the prompts that every model answered."""
    qualities = [np.array([[quality for quality, _ in side[p]] for p in prompts]) for side in (ours, theirs)]
    rate, error = (None, None) if name == "DPO" else win_rate(*qualities)
    chars = [n_chars for prompt in prompts for _, n_chars in ours[prompt]]
    return Result(name, float(qualities[0].mean()), rate, error, float(np.mean(chars)))


def show(manifest: Manifest) -> None:
    """The table of results, on the terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("model")
    for heading in ("quality", "win rate against DPO", "mean length"):
        table.add_column(heading, justify="right")
    for result in (Result(**row) for row in manifest.figures["results"]):
        rate = "-" if result.win_rate is None else with_error(result.win_rate, result.win_rate_error)
        table.add_row(result.model, f"{result.quality:.3f}", rate, f"{result.mean_chars:.1f} characters")
    console.print()
    console.print(table)


def only_shown(run: Run) -> Manifest | None:
    """The manifest of an evaluation that is done, of a run that is not trusted: its judge is not run.

    None for a run that is trusted. Raises BadInput where the judge of one that is not has work to do.
    """
    if is_trusted():
        return None
    found = STAGE.state(run, 0, thorough=True)
    if found.state is not State.DONE or differences(found.basis, STAGE.basis(run, 0)):
        require_trust(run, "evaluate.judge", run.recipe.evaluate.judge)
    say(f"{STAGE.name:<10}done before: {found.manifest.summary}")
    return found.manifest


def _needs(run: Run, t: int) -> list[tuple[str, int]]:
    return makers(*(int(name.removeprefix("round-")) for name in models(run) if name.startswith("round-")))


STAGE = Stage(
    "evaluate",
    _inputs,
    _settings,
    outputs=("prompts.jsonl", "responses", "quality"),
    run=_run,
    folder=_folder,
    needs=_needs,
    given=lambda run, t: {"SFT": "reference", "DPO": "policy"},
    expendable=True,
    launches=lambda run, t: [workers.launch() for workers in _workers(run)],
)
