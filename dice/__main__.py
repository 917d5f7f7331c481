"""The commands, `dice COMMAND` or `python -m dice COMMAND`. The loop itself is scripts/run_dice/iter.sh."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while the rest is imported: no traceback

import os
import sys
from pathlib import Path

import dice.launch.packages  # noqa: F401  names a package that is missing
from dice import __version__
from dice.errors import BadInput
from dice.launch import command_line
from dice.launch.console import console, run
from dice.launch.processes import die_with_parent
from dice.run.run import open_run, open_to_work
from dice.tools.loop_commands import ForTheLoop, run_one

# What a command needs besides is imported where it is used: numpy and the stages take a third of a second.


class ForUsers:
    """Commands for you:"""

    def init(
        self,
        folder: str,
        *,
        model: str,
        pairs: str,
        prompts: str | None = None,
        gpus: str | None = None,
        reference: str | None = None,
        template: str | None = None,
    ) -> None:
        """Write a recipe of your own, sized for your data and GPUs.

        dice init FOLDER --model=MODEL --pairs=PAIRS [--reference=MODEL] [--prompts=PROMPTS] [--gpus=GPUS]

        Without a reference the model is an SFT model, and the recipe makes a DPO model out of it first.

        Args:
            folder: The recipe's folder, which is made.
            model: The SFT model, or the DPO model where there is a reference: a folder or a Hub id.
            pairs: Preference pairs: a file, or a name of data/dataset_info.json.
            prompts: The prompts of the rounds, by default those of the pairs: a file or a name as well.
            gpus: The GPUs to size it for, such as 8xA100-80G or 1x24G; by default those found here.
            reference (MODEL): The model that the DPO model was trained from.
            template (NAME): The chat template in LLaMA-Factory; by default the model's own is looked up.
        """
        from dice.tools.init import make_recipe

        make_recipe(folder, model, pairs, prompts, gpus, reference, template)

    def plan(self, recipe: str, *overrides: str) -> None:
        """Print what a recipe would run: memory, disk and hours.

        Nothing is run. gpus=8xA100-80G plans for other GPUs than this machine's.
        """
        from dice.tools.plan import show_plan

        show_plan(recipe, list(overrides))

    def doctor(
        self, recipe: str, *overrides: str, benchmark: str | None = None, **options: str | float
    ) -> None:
        """Find out in a minute what would go wrong with a recipe.

        dice doctor RECIPE [key=value ...]
        dice doctor RECIPE --benchmark=NAME [--tasks=NAME[,NAME]] [--judge=MODEL] [--first=N] [...]

        Status 0: nothing is at fault; 1: a run would go wrong; 2: `dice start` would refuse the recipe.
        With a benchmark its package, questions and judge are looked at instead, and what it would cost.

        Args:
            benchmark (NAME): One of alpaca_eval2, arena_hard, mt_bench, lm_eval, with the flags below.
        """
        from dice.tools import doctor
        from dice.tools.benchmarks import evaluation

        if benchmark is None:
            _refuse_options("doctor", options)
            sys.exit(doctor.examine(recipe, list(overrides)))
        given = evaluation.parse(options)
        sys.exit(doctor.examine_benchmark(recipe, list(overrides), benchmark, given))

    def prepare(self, recipe: str, *overrides: str) -> None:
        """Make the models and data that a recipe starts from, no more."""
        from dice.stages.prepare import prepare_recipe

        prepare_recipe(recipe, overrides)

    def status(self, run: str | None = None, *, check: bool = False) -> None:
        """Print what of a run is done, running or failed, and why.

        Args:
            run: The run's folder, such as results/tiny; without it all runs are listed.
            check: Compare every file with its stage's manifest; the status is 1 where one was changed.
        """
        from dice.tools import status

        if status.show(run, check):
            sys.exit(1)

    def report(
        self, run: str, other: str | None = None, *, quick: bool = False, in_loop: bool = False
    ) -> None:
        """Write a run's report, report.html in its folder.

        Args:
            other: Another run's folder, whose figures are shown beside those of the first.
            quick: Load no model; otherwise those of every round are, to show pairs token by token.
            in_loop: For iter.sh: only where the recipe wants it; tell loggers too; never fail.
        """
        from dice.tools import loggers
        from dice.tools.report import report

        opened = open_run(run) if quick else open_to_work(run)
        report(opened, open_run(other) if other else None, quick, in_loop)
        if in_loop:
            loggers.send(opened)

    def score(
        self,
        source: str,
        *words: str,
        recipe: str | None = None,
        output: str | None = None,
        per_token: bool = False,
        force: bool = False,
    ) -> None:
        """Compute the rewards of a round, or of any file of responses.

        dice score RUN ROUND [--force]
        dice score FILE --recipe=RECIPE [key=value ...] [--output=FILE] [--per_token]
        dice score FILE policy=MODEL reference=MODEL template=NAME [key=value ...]

        Args:
            source (RUN or FILE): A run's folder; or responses in JSON, JSON Lines, CSV or Parquet.
            words (ROUND or key=value): The round of a run; or other values for keys of the recipe.
            output (FILE): Where a file's rows go with rewards; by default NAME.scores.jsonl in this folder.
            per_token: Write the reward of each token of a file's responses as well.
        """
        if len(words) == 1 and words[0].isdigit():
            if recipe or output or per_token:
                raise BadInput("--recipe, --output and --per_token are for files; a run has its own recipe")
            run_one("score", open_to_work(source), int(words[0]), force)
            return
        from dice.tools.score_file import check_words, score_file

        check_words(source, words, force)
        score_file(source, recipe, list(words), output, per_token)

    def reward(self, preferences: str, *overrides: str, recipe: str | None = None) -> None:
        """Print how well rewards agree with the labels of preferences.

        dice reward FILE --recipe=RECIPE [key=value ...]
        dice reward FILE policy=MODEL reference=MODEL template=NAME [key=value ...]

        Args:
            preferences (FILE): A file of preferences, or a name of dataset_info.json.
        """
        from dice.tools.agreement import show_agreement

        show_agreement(preferences, recipe, list(overrides))

    def evaluate(
        self, run: str, *, benchmark: str | None = None, force: bool = False, **options: str | float
    ) -> None:
        """Answer held-out prompts with every model; print win rates.

        dice evaluate RUN [--force]
        dice evaluate RUN --benchmark=NAME [--tasks=NAME[,NAME]] [--judge=MODEL] [--first=N] [...]

        The judge is code that the run's recipe.yaml names. It is run if DICE_TRUST_RUN=1 is set.
        With a benchmark its questions are answered instead, and the server of OPENAI_BASE_URL and
        OPENAI_API_KEY judges the answers; lm_eval scores its tasks itself. The flags from --questions on
        are for benchmarks.

        Args:
            benchmark (NAME): One of alpaca_eval2, arena_hard, mt_bench, lm_eval.
        """
        opened = open_to_work(run)
        if benchmark is not None:
            from dice.tools.benchmarks import evaluation

            evaluation.evaluate(opened, benchmark, evaluation.parse(options), force)
            return
        _refuse_options("evaluate", options)
        if not opened.recipe.evaluate.judge:
            console.print("  evaluate  this recipe has no judge; nothing to do")
            return
        from dice.stages import evaluate

        evaluate.show(evaluate.only_shown(opened) or run_one("evaluate", opened, 0, force))

    def export(
        self,
        source: str,
        round: int | None = None,
        *,
        output: str | None = None,
        push: str | None = None,
        pairs: bool = False,
    ) -> None:
        """Write a model as a plain Hugging Face folder with a card.

        dice export RUN ROUND [--output=FOLDER] [--push=OWNER/NAME [--pairs]]
        dice export CHECKPOINT --output=FOLDER [--push=OWNER/NAME]

        Adapters are merged, and the parts of DeepSpeed's and FSDP's checkpoints gathered.

        Args:
            source (RUN or CHECKPOINT): A run's folder, or that of any checkpoint.
            round: The round of the run whose model it is.
            output (FOLDER): Where the model goes; for a round a folder of the run by default.
            push (OWNER/NAME): The Hub's repository to upload it to, which is private at first.
            pairs: Upload the pairs of all rounds so far as well, as the data set OWNER/NAME-pairs.
        """
        from dice.tools import export_model

        if round is None and not (Path(source) / "recipe.yaml").is_file():
            export_model.export_checkpoint(source, output, push, pairs)
            return
        opened = open_to_work(source)
        export_model.export_round(opened, opened.checked_round(round), output, push, pairs)

    def register(self, round_dir: str, *, name: str, mixed: bool = False, force: bool = False) -> None:
        """Add a round's pairs to its recipe's dataset_info.json.

        Args:
            round_dir: The round's folder, such as results/tiny/round-1.
            name: The name of the new data set.
            mixed: Take all that the round trained on, offline pairs included.
            force: Replace another entry of the same round; those of other data are never replaced.
        """
        from dice.data.dataset_dir import register

        register(round_dir, name, mixed, force)

    def ablate(self, recipe: str, *words: str, plan: bool = False, cells: bool = False) -> None:
        """Print and write an ablation's table; ablate.sh makes its runs.

        Args:
            words (key=value): Keys of the recipe; or seeds=1,2,3, axes=reward,balance,gamma, axis_rounds=1.
            plan: Print what is still to be run, and for how long.
            cells: Print the overrides of each run that is still to be made.
        """
        from dice.tools import ablation

        if plan or cells:
            (ablation.show_plan if plan else ablation.show_cells)(recipe, list(words))
        elif not ablation.show_table(recipe, list(words)):
            sys.exit(1)


class Commands(ForUsers, ForTheLoop):
    """DICE: bootstrapping language models with DPO implicit rewards.

    Args:
        run: The run's folder, such as results/tiny.
        round: The round, from 1 on.
        recipe: A recipe's name, such as tiny, or the folder of one of your own.
        overrides (key=value): Other values for keys of the recipe, such as rounds=3.
        force: Make finished work anew if it was made with another recipe, or its files were changed.

    Options:
        questions (FILE): The benchmark's questions, instead of the Hub's file.
        references (FILE[,FILE]): Answers to compare with, instead of the Hub's file.
        judge (MODEL): The judging model's name on the server.
        judge_prompts (FILE): The benchmark's own prompts for the judge, in its own format.
        judge_options (JSON): More of each request to the judge; null leaves a key out.
        concurrency (N): Requests to the judge at once; 8 by default.
        models (NAME[,NAME]): The models to evaluate, such as DPO,round-2; by default all but SFT.
        first (N): The first N questions only, for a try-out.
        temperature (T): The temperature of sampling, instead of the benchmark's.
        max_new_tokens (N): The longest answer in tokens, instead of the benchmark's.
        length_data (FILE): AlpacaEval's df_gamed.csv, instead of the Hub's.
        tasks (NAME[,NAME]): The tasks of lm_eval, such as ifeval,gsm8k, or paths of task files.
    """


def _refuse_options(command: str, options: dict[str, object]) -> None:
    if options:
        raise BadInput(f"{command}: --{next(iter(options))} needs --benchmark=NAME")


def main() -> None:
    if os.environ.get("DICE_IN_LOOP"):  # started by iter.sh: a killed loop takes its stage along
        die_with_parent()
    run(lambda: command_line.call(Commands, sys.argv[1:], __version__))


if __name__ == "__main__":
    main()
