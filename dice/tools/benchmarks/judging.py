"""The judge stage of the benchmarks whose verdicts DICE reads itself: ask, keep, count, average.

Judgments lie in shards of ten, each rewritten as its judgments come, so a killed evaluation asks only for
what it lacks. What got no answer counts as unanswered, what can't be read as unreadable; both are asked
again as long as there is no score.
"""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dice.errors import StageFailed
from dice.launch.progress import Bar
from dice.rewards.openai_client import Answer, ask_all
from dice.run.digests import file_digest
from dice.run.files import read_rows, remove, shard_path, shards, write_rows
from dice.run.rows import Judgment
from dice.run.run import Run
from dice.run.stage import Outcome, Stage
from dice.run.state import StageFiles
from dice.tools.benchmarks import questions
from dice.tools.benchmarks.results import Result, in_words
from dice.tools.benchmarks.task import Asked, Task, Verdicts

SHARD = 10  # judgments
MOST_MISSING = 0.1  # share of the judgments, unanswered or unreadable, beyond which there is no score


def stage(task: Task) -> Stage:
    """The stage that has one model's answers judged. Raises BadInput for prompts or references of no use."""
    benchmark, options = task.benchmark, task.options
    prompts = benchmark.Prompts(options.judge_prompts)
    references, paths = benchmark.references(task.questions, options)
    notes = [*prompts.notes, *benchmark.reference_notes(task.questions, references)]

    def inputs(run: Run, t: int) -> dict[str, str]:
        files = {"answers": task.answers_path(run)}
        files |= {f"references {number}": path for number, path in enumerate(paths, 1)}
        if options.judge_prompts:
            files["judge_prompts"] = Path(options.judge_prompts)
        return {name: file_digest(path) for name, path in files.items()}

    def settings(run: Run, t: int) -> dict[str, Any]:
        own = {"benchmark": task.name, "judge": task.server.model, "notes": [*task.notes]}
        return {**own, "request": request_options(task)}

    def judge(run: Run, t: int) -> Outcome:
        folder, generator = task.judged_folder(run), task.generator(run)
        answers = [row for _, row in questions.read_rows(task.answers_path(run), {})]
        asked = benchmark.asked(task.questions, answers, references, prompts)
        if task.anew:
            remove(folder / "judgments")
        judged = _ask(task, folder / "judgments", asked)
        verdicts = {name: row.verdict for name, row in judged.items() if row.verdict is not None}
        rows = benchmark.judgment_rows(task, generator, references, judged, dict(asked))
        write_rows(folder / "model_judgment" / f"{generator}.jsonl", rows)
        failures = [row.failure for row in judged.values() if row.failure is not None]
        unread = [row.text for row in judged.values() if row.failure is None and row.verdict is None]
        reason, example = next(iter(failures), ""), next(iter(unread), "")
        check_enough(len(judged), len(failures), reason, len(unread), f"one of them: {example!r:.200}")
        scored = benchmark.score(task.questions, verdicts)
        return outcome(task, run, scored, len(verdicts), len(unread), len(failures), notes)

    outputs, parts = ("judgments", "model_judgment"), ("judgments/part-*.jsonl",)
    return Stage("judge", inputs, settings, outputs, judge, task.judged_folder, parts=parts)


def request_options(task: Task) -> dict[str, Any]:
    """What every request to the judge says beside model and messages: not what a user gives as null."""
    said = {**task.benchmark.judge_options(task.questions), **task.options.judge_options}
    return {key: value for key, value in said.items() if value is not None}


def _ask(task: Task, folder: Path, asked: list[Asked]) -> dict[str, Judgment]:
    """Every judgment by its name; asked for is what is not there, or had no verdict before."""
    known = {row.name: row for path in shards(folder) for row in read_rows(path, Judgment)}
    judged = {name: known[name] for name, _ in asked if name in known and known[name].verdict is not None}
    missing = [place for place, (name, _) in enumerate(asked) if name not in judged]

    def keep(number: int, answer: Answer) -> None:
        shard = missing[number] // SHARD
        name = asked[missing[number]][0]
        judged[name] = Judgment(name, answer.text, answer.value, answer.failure)
        names = [name for name, _ in asked[shard * SHARD : (shard + 1) * SHARD]]
        write_rows(shard_path(folder, shard), [judged[name] for name in names if name in judged])
        bar.update()

    server = replace(task.server, options=request_options(task))
    with Bar("judge", "judgments", lambda: (len(judged), len(asked))) as bar:
        ask_all(server, [asked[place][1] for place in missing], task.benchmark.read_verdict, keep)
    return judged


def check_enough(asked: int, unanswered: int, reason: str, unreadable: int, example: str) -> None:
    """Raises StageFailed where too few questions to the judge have a verdict for there to be a score."""
    if unanswered + unreadable <= MOST_MISSING * asked:
        return
    gaps = []
    if unanswered:
        gaps.append(f"left {unanswered:,} of {asked:,} questions unanswered ({reason})")
    if unreadable:
        gaps.append(f"answered {unreadable:,} of {asked:,} without a verdict that could be read ({example})")
    raise StageFailed(
        f"the judge {' and '.join(gaps)}; the others are kept: run the same command again to ask for these"
    )


def outcome(
    task: Task, run: Run, scored: Verdicts, verdicts: int, unreadable: int, unanswered: int, notes: list[str]
) -> Outcome:
    """How a judge stage ends: the result for its manifest, and what is worth a look.

    The score may rest on fewer than all the `verdicts`.
    """
    answers = StageFiles(task.folder(run), "answers").manifest().figures
    result = Result(
        benchmark=task.name,
        model=task.model,
        judge=task.server.model,
        score=scored.score,
        is_grade=task.benchmark.GRADES,
        error=scored.error,
        length_controlled=scored.length_controlled,
        questions=len(task.items),
        judgments=scored.judgments,
        unreadable=unreadable,
        unanswered=unanswered,
        mean_chars=answers["mean_chars"],
        cut_off=answers["cut_off"],
        questions_digest=task.questions.digest,
        parts=scored.parts,
        notes=[*task.notes, *task.questions.notes, *notes],
    )
    warnings = []
    if unreadable:
        warnings.append(f"{unreadable:,} judgments could not be read; they are left out")
    if unanswered:
        warnings.append(f"{unanswered:,} questions to the judge got no answer; they are left out")
    if alone := verdicts - scored.judgments:
        warnings.append(f"{alone:,} judgments are left out, since the other one of their question is")
    return Outcome(
        rows_in=len(task.items),
        rows_out=result.judgments,
        summary=f"{task.model}: {in_words(result)}, {result.judgments:,} judgments",
        figures={"result": asdict(result)},
        warnings=warnings,
    )
