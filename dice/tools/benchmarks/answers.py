"""A model's answers to a benchmark's questions, sampled like any others, in the benchmark's own format.

Questions of one turn and temperature are one part, with prompts and shards of its own; a second turn's
prompts hold the model's own first answer. What is sampled stays, so a killed evaluation goes on.
"""

import itertools
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.launch import processes
from dice.launch.processes import Launch, Workers
from dice.launch.worker import Worker
from dice.recipe.keys import Recipe
from dice.run import files
from dice.run.digests import file_digest, model_digest
from dice.run.rows import Message, Prompt, Response, prompt_id
from dice.run.run import Run, open_run
from dice.run.stage import Outcome, Stage, makers
from dice.stages.evaluate import models
from dice.stages.generate import Part, sample_parts, sampling_settings
from dice.tools.benchmarks.task import Reply, Task


def stage(task: Task) -> Stage:
    """The stage that makes one model's answers."""

    def inputs(run: Run, t: int) -> dict[str, str]:
        model = model_digest(models(run)[task.model])
        return {"model": model, "questions": file_digest(task.benchmark.path)}

    def settings(run: Run, t: int) -> dict[str, Any]:
        sampling = sampling_settings(_recipe(run.recipe, {}))
        unused = ("samples", "temperature", "top_p", "max_new_tokens")  # the decoding says these
        options = {key: value for key, value in sampling["generate"].items() if key not in unused}
        own = {"benchmark": task.name, "model": task.model, "decoding": asdict(task.decoding)}
        return {**sampling, **own, "generate": options}

    def launches(run: Run, t: int) -> list[Launch]:
        return [_workers(task, run, turn).launch() for turn in _turns(task, run)]

    outputs = ("turns", task.benchmark.answers_in)
    parts = ("turns/*/*/part-*.jsonl",)
    number = task.model.removeprefix("round-")
    needs = makers(int(number)) if number.isdigit() else []
    return Stage(
        "answers",
        inputs,
        settings,
        outputs,
        run=lambda run, t: _run(task, run),
        folder=task.folder,
        parts=parts,
        needs=lambda *_: needs,
        launches=launches,
    )


def work(worker: Worker, run_dir: str, model: str, turn: str) -> None:
    """A worker's share of one turn: every folder in it is a part, with how to sample in `sampling.json`.

    Evaluation counts as round 0 for the seeds.
    """
    run = open_run(run_dir)
    parts = []
    for path in sorted(Path(turn).glob("*/sampling.json")):
        recipe = _recipe(run.recipe, files.read_json(path) or {})
        parts.append(Part(recipe, path.with_name("prompts.jsonl"), path.parent))
    sample_parts(worker, models(run)[model], parts, 0, worker.counter())


def _recipe(recipe: Recipe, sampling: dict[str, Any]) -> Recipe:
    """The recipe with a benchmark's way of sampling: one answer per question."""
    return recipe.sampling(samples=1, **sampling)


def _run(task: Task, run: Run) -> Outcome:
    replies: list[list[Reply]] = [[] for _ in task.questions]
    for turn in range(len(_turns(task, run))):
        conversations = {
            index: _messages(question.turns[: turn + 1], replies[index])
            for index, question in enumerate(task.questions)
            if turn < len(question.turns)
        }
        answered = _sample(task, run, _turns(task, run)[turn], conversations)
        for index, reply in answered.items():
            replies[index].append(reply)
    answered = zip(task.questions, replies, strict=True)
    rows = (task.benchmark.answer_row(question, task.generator(run), own) for question, own in answered)
    task.benchmark.write_rows(task.answers_path(run), rows)
    notes = task.benchmark.answer_notes()
    every = [reply for of_question in replies for reply in of_question]
    cut_off = sum(reply.cut_off for reply in every)
    chars = sum(len(reply.text) for reply in every) / len(every)
    warnings = [f"{cut_off:,} of {len(every):,} answers were cut off"] if cut_off else []
    return Outcome(
        rows_in=len(task.questions),
        rows_out=len(every),
        summary=f"{task.model}: {len(every):,} answers to {len(task.questions):,} questions, "
        f"{chars:,.0f} characters on average",
        figures={"mean_chars": chars, "cut_off": cut_off, "notes": notes},
        warnings=warnings + notes,
    )


def _turns(task: Task, run: Run) -> list[Path]:
    """The folder of each turn."""
    count = max(len(question.turns) for question in task.questions)
    return [task.folder(run) / "turns" / f"turn-{turn}" for turn in range(1, count + 1)]


def _workers(task: Task, run: Run, turn: Path) -> Workers:
    arguments, parallel = [str(run.path), task.model, str(turn)], run.recipe.generate.tensor_parallel
    return Workers("dice.tools.benchmarks", task.folder(run), arguments, "questions", parallel, turn.name)


def _messages(turns: tuple[str, ...], replies: list[Reply]) -> list[Message]:
    """The user's turns with the model's own answers between them."""
    messages: list[Message] = []
    for turn, reply in itertools.zip_longest(turns, replies):
        messages.append(Message(role="user", content=turn))
        if reply:
            messages.append(Message(role="assistant", content=reply.text))
    return messages


def _sample(task: Task, run: Run, folder: Path, conversations: dict[int, list[Message]]) -> dict[int, Reply]:
    """The model's replies to one turn's conversations, by the question's number."""
    groups: dict[float, dict[str, Prompt]] = {}
    for index, messages in conversations.items():
        prompt = Prompt(prompt_id(messages), messages)  # a question that comes twice is answered once
        temperature = task.decoding.of(task.questions[index].category)
        groups.setdefault(temperature, {})[prompt.prompt_id] = prompt
    for temperature, prompts in groups.items():
        part = folder / f"temperature-{temperature:g}"
        files.write_rows(part / "prompts.jsonl", prompts.values())
        decoding = {"top_p": task.decoding.top_p, "max_new_tokens": task.decoding.max_new_tokens}
        files.write_json(part / "sampling.json", {"temperature": temperature, **decoding})
    processes.run_workers(*_workers(task, run, folder))
    found = {
        (part.name, response.prompt_id): response
        for part in folder.glob("temperature-*")
        for shard in files.shards(part)
        for response in files.read_rows(shard, Response)
    }
    replies = {}
    for index, messages in conversations.items():
        question = task.questions[index]
        part = f"temperature-{task.decoding.of(question.category):g}"
        response = found.get((part, prompt_id(messages)))
        if response is None:
            raise BadInput(
                f"{task.benchmark.path}: question {question.id!r} leaves {task.model} no room for an "
                f"answer in its context (see {task.folder(run)}/logs/benchmarks.log); all must be answered"
            )
        replies[index] = Reply(response.response, response.n_tokens, response.finish_reason == "length")
    return replies
