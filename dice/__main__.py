"""`python -m dice COMMAND`: one command per stage, and what the loop around them needs.

The loop itself is bash: scripts/run_dice/iter.sh and pipeline.sh.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the rest is imported: no traceback

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import fire

from dice import __version__
from dice.errors import BadInput
from dice.launch import machines
from dice.launch.console import console, run, say, shown
from dice.launch.processes import die_with_parent
from dice.recipe.load import load_recipe
from dice.run.run import Run, open_run
from dice.run.stage import execute, facts, stage_named
from dice.tools import status


class Promise:
    """A command that is still to be run."""

    def __init__(self, command: Callable[[], object]) -> None:
        self._command = command


def promised(method: Callable) -> Callable:
    """Put off a command: fire calls a method before it finds that it has arguments left over."""

    @functools.wraps(method)
    def promise(*args: Any, **kwargs: Any) -> Promise:
        return Promise(functools.partial(method, *args, **kwargs))

    return promise


class Commands:
    """Bootstrapping language models with DPO implicit rewards."""

    @promised
    def resolve(self, recipe: str, *overrides: str) -> str:
        """Print the number of rounds and the run's folder of a recipe with overrides; change nothing."""
        loaded = load_recipe(str(recipe), overrides)
        return f"{loaded.rounds} {shown(loaded.run_dir)}"

    @promised
    def start(self, recipe: str, *overrides: str, force: bool = False) -> None:
        """Check a recipe (key=value overrides any key), make what it needs, write its recipe.yaml.

        With --force also where finished stages will have to run again.
        """
        from dice.stages.prepare import start

        start(str(recipe), overrides, bool(force))

    @promised
    def hold(self, run: str, recipe: str, *overrides: str) -> None:
        """Take a run for the loop that this process belongs to; iter.sh does."""
        from dice.stages.prepare import hold

        hold(open_run(str(run)), str(recipe), overrides)

    @promised
    def plan(self, recipe: str, *overrides: str) -> None:
        """Print what a recipe would run, its memory, disk and hours; run nothing.

        python -m dice plan RECIPE [key=value ...] [gpus=8xA100-80G]
        """
        from dice.tools.plan import show_plan

        show_plan(str(recipe), [str(override) for override in overrides])

    @promised
    def doctor(self, recipe: str, *overrides: str) -> None:
        """Find out what would go wrong with a recipe, in about a minute; change nothing.

        Status 0: nothing at fault; 1: a run would go wrong; 2: `start` would refuse the recipe.
        """
        from dice.tools.doctor import examine

        sys.exit(examine(str(recipe), [str(override) for override in overrides]))

    @promised
    def share(self, run: str) -> None:
        """Take over the stages that other runs beside this one have done and that would be the same here."""
        from dice.tools import reuse

        reuse.share(open_run(str(run)))

    @promised
    def ablate(self, recipe: str, *words: str, plan: bool = False, cells: bool = False) -> None:
        """Print and write the table of an ablation; scripts/run_dice/ablate.sh makes its runs.

        python -m dice ablate RECIPE [key=value ...] [seeds=1,2,3] [axes=reward,balance,gamma] [axis_rounds=1]
        With --plan: what is still to be run; with --cells: the overrides of each such run.
        """
        from dice.tools import ablation

        given = [str(word) for word in words]
        if plan or cells:
            (ablation.show_plan if plan else ablation.show_cells)(str(recipe), given)
        elif not ablation.show_table(str(recipe), given):
            sys.exit(1)

    @promised
    def train_rm(self, run: str, *, force: bool = False) -> None:
        """Train the scalar reward model of the offline pairs, where the recipe's rewards come from it."""
        from dice.stages import train_reward_model

        opened = open_run(str(run))
        if train_reward_model.is_wanted(opened.recipe):
            execute(train_reward_model.STAGE, opened, 0, bool(force))

    @promised
    def generate(self, run: str, round: int, *, force: bool = False) -> None:
        """Sample K responses per prompt from the round's policy.

        With --force again where it was done with something else or its files were changed.
        """
        _stage("generate", run, round, force)

    @promised
    def score(
        self,
        run: str,
        *round: Any,
        recipe: str | None = None,
        output: str | None = None,
        per_token: bool = False,
        force: bool = False,
    ) -> None:
        """Compute the reward of every response: of a round, or of any file of responses.

        python -m dice score RUN ROUND
        python -m dice score FILE --recipe=RECIPE [key=value ...] [--output=FILE] [--per_token]
        python -m dice score FILE policy=MODEL reference=MODEL template=NAME [key=value ...]

        FILE is JSON, JSON Lines, CSV or Parquet, or a name of dataset_info.json. The output has its rows
        with their rewards; with --per_token also each token's.
        """
        if len(round) == 1 and isinstance(round[0], int):
            _stage("score", run, *round, force)
            return
        if (Path(str(run)) / "recipe.yaml").is_file():
            raise BadInput(f"{run} is a run; which round? python -m dice score {run} 1")
        from dice.tools.score_file import score_file

        score_file(str(run), recipe, _overrides(round), output, per_token)

    @promised
    def reward(self, preferences: str, *overrides: str, recipe: str | None = None) -> None:
        """Print how well an implicit reward agrees with the labels of a preference set.

        python -m dice reward FILE_OR_NAME --recipe=RECIPE [key=value ...]
        python -m dice reward FILE_OR_NAME policy=MODEL reference=MODEL template=NAME [key=value ...]
        """
        from dice.tools.agreement import show_agreement

        show_agreement(str(preferences), recipe, _overrides(overrides))

    @promised
    def pair(self, run: str, round: int, *, force: bool = False) -> None:
        """Balance lengths, choose best and worst, mix in offline pairs, export the data set."""
        _stage("pair", run, round, force)

    @promised
    def register(self, round_dir: str, name: str, mixed: bool = False) -> None:
        """Add a round's pairs to data/dataset_info.json (with --mixed: what the round trained on)."""
        from dice.data.dataset_dir import register

        register(str(round_dir), str(name), bool(mixed))

    @promised
    def train(self, run: str, round: int, *, force: bool = False) -> None:
        """Train the round's model by DPO, with LLaMA-Factory."""
        _stage("train", run, round, force)

    @promised
    def export(
        self, source: str, round: int | None = None, output: str | None = None, push: str | None = None
    ) -> None:
        """Write a model as a plain Hugging Face folder: adapters merged, sharded checkpoints gathered.

        python -m dice export RUN ROUND [--output=FOLDER] [--push=OWNER/NAME]
        python -m dice export CHECKPOINT_FOLDER --output=FOLDER [--push=OWNER/NAME]
        """
        from dice.tools import export_model

        if round is None and not (Path(str(source)) / "recipe.yaml").is_file():
            export_model.export_checkpoint(str(source), output, push)
            return
        opened = open_run(str(source))
        export_model.export_round(opened, _round_of(opened, round), output, push)

    @fire.decorators.SetParseFns(judge_options=str)  # JSON: fire would make a text of true, false and null
    @promised
    def evaluate(
        self, run: str, benchmark: str | None = None, *, force: bool = False, **options: Any
    ) -> None:
        """Answer held-out prompts with every model of the run; print quality and win rates.

        python -m dice evaluate RUN
        python -m dice evaluate RUN --benchmark=alpaca_eval2|arena_hard|mt_bench [options]

        With a benchmark: its questions instead, judged by the server of OPENAI_BASE_URL and OPENAI_API_KEY.
        Options (docs/benchmarks.md): --questions=FILE, --references=FILE[,FILE], --judge=MODEL,
        --judge_prompts=FILE, --judge_options=JSON, --concurrency=N, --models=NAME[,NAME], --first=N,
        --temperature=T, --max_new_tokens=N, --length_data=FILE, --force (what was made for others, anew).
        """
        from dice.stages import evaluate

        opened = open_run(str(run))
        if benchmark is not None or options:
            _benchmark(opened, benchmark, options, bool(force))
            return
        if not opened.recipe.evaluate.judge:
            console.print("  evaluate  this recipe has no judge; nothing to do")
            return
        evaluate.show(execute(evaluate.STAGE, opened, 0, bool(force)))

    @promised
    def report(self, run: str, *, quick: bool = False, in_loop: bool = False) -> None:
        """Write a run's report, report.html in its folder, of what is there so far.

        It shows pairs token by token, for which both models of every round are loaded once; with --quick
        nothing is loaded, and pairs whose tokens were not read yet stay plain. With --in_loop (iter.sh):
        only where the recipe wants it, and without a failure if it can't be done.
        """
        opened = open_run(str(run))
        if in_loop and not opened.recipe.report:
            return
        from dice.tools.report import write_report

        try:
            with machines.meeting("report") as meeting:
                meeting.agree(functools.partial(facts, opened))
                write_report(opened, bool(quick)) if meeting.leads else meeting.follow()
        except Exception as error:
            if not in_loop:
                raise
            say(f"report    not written: {error}".splitlines()[0], mark="!")

    @promised
    def status(self, run: str | None = None, *, check: bool = False) -> None:
        """Print what of a run is done, running or failed and why; without a run, list them all.

        With --check every file is compared with its stage's manifest; status 1 where one was changed.
        """
        if run is None:
            status.show_all()
            return
        if status.show_run(open_run(str(run)), bool(check)):
            sys.exit(1)

    @promised
    def places(self, run: str) -> None:
        """Print where a run's models, data sets and logs lie."""
        status.show_places(open_run(str(run)))

    @promised
    def version(self) -> str:
        """Print DICE's version."""
        return __version__


def _overrides(given: tuple[Any, ...]) -> list[str]:
    for override in given:
        if not isinstance(override, str) or "=" not in override:
            raise BadInput(f"{override!r} is neither a round of a run nor key=value")
    return list(given)


def _stage(name: str, run: str, t: int, force: bool) -> None:
    opened = open_run(str(run))
    execute(stage_named(name), opened, _round_of(opened, t), bool(force))


def _benchmark(run: Run, name: str | None, given: dict[str, Any], force: bool) -> None:
    from dice.tools.benchmarks import evaluation, task

    known = [spec.name for spec in fields(task.Options)]
    for key in given:
        if name is None or key not in known:
            there = f"with --benchmark=NAME there are --{', --'.join(known)}"
            raise BadInput(f"evaluate has no option --{key}; {there}")
    evaluation.evaluate(run, str(name), evaluation.parse(given), force)


def _round_of(run: Run, t: Any) -> int:
    if not isinstance(t, int) or not 1 <= t <= run.recipe.rounds:
        raise BadInput(f"round is {t!r}; this run has rounds 1 to {run.recipe.rounds}")
    return t


def main() -> None:
    if os.environ.get("DICE_IN_LOOP"):  # started by iter.sh: a killed loop takes its stage along
        die_with_parent()
    run(_main)


def _main() -> None:
    def shown(result: object) -> object:
        return None if isinstance(result, Promise) else result

    chosen = fire.Fire(Commands(), name="dice", serialize=shown)
    if isinstance(chosen, Promise) and (answer := chosen._command()) is not None:
        print(answer)


if __name__ == "__main__":
    main()
