"""Arena-Hard: each answer against a baseline's, in both orders, by a judge with five verdicts.

A win counts 1 and a tie 1/2 of a battle; a verdict "significantly better" counts as three battles. The
score is the mean over battles, as in the benchmark's own table.
"""

import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from dice.errors import BadInput
from dice.recipe.keys import Recipe
from dice.run.files import write_rows
from dice.run.rows import Judgment, Message, prompt_id
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks.questions import Decoding, HubFile, Question, Questions
from dice.tools.benchmarks.style import markdown_counts, token_counter
from dice.tools.benchmarks.task import Asked, Options, Reply, Row, Task, Verdicts

NAME, TITLE, ANSWERS, GRADES = "arena_hard", "Arena-Hard", "model_answer", False
VERSIONS = {500: "v0.1", 750: "v2.0"}
REPOSITORY = "lmarena-ai/arena-hard-auto"
JUDGES = {"v0.1": "gpt-4-1106-preview", "v2.0": "gpt-4.1"}
BASELINES = {  # by version, then by category; "" is every other
    "v0.1": {"": "gpt-4-0314"},
    "v2.0": {"": "o3-mini-2025-01-31", "creative_writing": "gemini-2.0-flash-001"},
}
STRONG = 3  # battles that a verdict "significantly better" counts as
# What a label says of A, in battles: the share that A wins, and how many they are.
LABELS = {"A>>B": (1.0, STRONG), "A>B": (1.0, 1), "A=B": (0.5, 1), "A<B": (0.0, 1), "A<<B": (0.0, STRONG)}
LABELS |= {"B<<A": (1.0, STRONG), "B<A": (1.0, 1), "B=A": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, STRONG)}
VERDICT = (re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]"))  # as asked for; sloppily

# DICE's own wording; the benchmark's own prompts come by --judge_prompts.
SYSTEM_PROMPT = """You compare two assistants' answers to the same user prompt, without favour to either.
First work out an answer of your own. Then go through answer A and answer B: say what is wrong or missing \
in each, how well each does what the user asked, how much of it is to the point, and how clearly and briefly \
it is said. Their order and length are no merit. Where the prompt can be read in several ways, asking back \
is better than guessing.
End with exactly one of these verdicts:
[[A>>B]] A is much better
[[A>B]] A is a little better
[[A=B]] they are about equally good
[[B>A]] B is a little better
[[B>>A]] B is much better"""
PROMPT_TEMPLATE = """<user prompt>
{QUESTION}
</user prompt>

<answer A>
{ANSWER_A}
</answer A>

<answer B>
{ANSWER_B}
</answer B>"""


def read_questions(options: Options) -> Questions:
    """The questions of v0.1 (500, the default) or v2.0 (750)."""
    hub = HubFile(REPOSITORY, "data/arena-hard-v0.1/question.jsonl")
    path = files.fetch(options.questions, hub, "questions")
    hint = " (before March 2025 they were question_id and turns: take the current file)"
    columns = {"uid": str, "category": str, "prompt": str}
    rows = [row for _, row in files.read_rows(path, columns, hint)]
    version = files.check_count(path, len(rows), VERSIONS, TITLE)
    files.check_distinct(path, (row["uid"] for row in rows))
    items = [Question(row["uid"], row["category"], (row["prompt"],), row) for row in rows]
    return Questions(version, items, path)


def decoding(recipe: Recipe) -> Decoding:
    """The most probable token, at most 4,096 of them, as the benchmark's configuration has it."""
    return Decoding(temperature=0.0, top_p=1.0, max_new_tokens=4096)


def judge_model(questions: Questions) -> str:
    return JUDGES[questions.version]


def answers_name(generator: str) -> str:
    return f"{ANSWERS}/{generator}.jsonl"


def write_answers(path: Path, generator: str, questions: Questions, answers: list[list[Reply]]) -> list[str]:
    """Rows of the benchmark's `model_answer`; `tstamp` is 0, so that equal answers are equal files."""
    encoding = token_counter()

    def rows() -> Iterator[Row]:
        for question, (reply,) in zip(questions.items, answers, strict=True):
            prompt = Message(role="user", content=question.turns[0])
            count = len(encoding.encode(reply.text, disallowed_special=())) if encoding else reply.n_tokens
            yield {
                "uid": question.id,
                "ans_id": prompt_id([prompt, Message(role=generator, content=reply.text)]),
                "model": generator,
                "messages": [prompt, {"role": "assistant", "content": {"answer": reply.text}}],
                "tstamp": 0.0,
                "metadata": {"token_len": count, **markdown_counts(reply.text)},
                **({} if encoding else {"token_len_by": "the model's own tokenizer"}),
            }

    write_rows(path, rows())
    if encoding:
        return []
    return [
        "token_len is by the model's own tokenizer (token_len_by says so): tiktoken's file for gpt-4o is not "
        "here and can't be downloaded; with style control, set TIKTOKEN_CACHE_DIR to a folder that has it"
    ]


def references(questions: Questions, options: Options) -> tuple[dict[str, Row], list[Path]]:
    """The baseline's answer to each question, by uid. Raises BadInput where one is missing."""
    baselines = BASELINES[questions.version]
    if options.references:
        paths = [files.local(path, "references") for path in options.references.split(",")]
    else:
        folder = f"data/arena-hard-{questions.version}/model_answer"
        hub = [HubFile(REPOSITORY, f"{folder}/{model}.jsonl") for model in baselines.values()]
        paths = [files.fetch(None, file, "references") for file in hub]
    by_uid: dict[str, dict[str, Row]] = {}  # then by model
    for path in paths:
        for where, row in files.read_rows(path, {"uid": str, "model": str, "messages": list}):
            _check_reference(where, row)
            by_uid.setdefault(row["uid"], {})[row["model"]] = row
    found = {}
    for question in questions.items:
        of_question = by_uid.get(question.id, {})
        wanted = baselines.get(question.category, baselines[""])
        if not of_question:
            raise BadInput(f"{paths[0]}: no baseline answer to question {question.id!r}")
        if wanted not in of_question and len(of_question) > 1:
            raise BadInput(f"{paths[0]}: no answer of {wanted} to question {question.id!r}, only of others")
        found[question.id] = of_question.get(wanted) or next(iter(of_question.values()))
    return found, paths


def _check_reference(where: str, row: Row) -> None:
    last = row["messages"][-1] if row["messages"] else None
    content = last.get("content") if isinstance(last, dict) else None
    if not isinstance(content, dict) or not isinstance(content.get("answer"), str):
        raise BadInput(f"{where}: the last message has no content.answer, which an Arena-Hard answer has")


def reference_notes(questions: Questions, found: dict[str, Row]) -> list[str]:
    """A note where the baseline is not the benchmark's."""
    own = set(BASELINES[questions.version].values())
    others = sorted({row["model"] for row in found.values()} - own)
    return [f"baseline {', '.join(others)} instead of {', '.join(sorted(own))}"] if others else []


class Prompts:
    """What the judge is asked: DICE's wording, or a YAML file like the benchmark's configuration."""

    def __init__(self, path: str | None) -> None:
        self.system, self.template = {"": SYSTEM_PROMPT}, PROMPT_TEMPLATE
        self.notes = [files.OWN_PROMPTS]
        if path is None:
            return
        self.template, system = _read_prompts(path)
        self.system = system or self.system
        own = f"the judge's system prompt is DICE's own: {Path(path).name} has none"
        self.notes = [] if system else [own]
        marks = ("<the question>", "<the first answer>", "<the second answer>")
        try:
            filled = self._render(*marks)
        except (LookupError, ValueError, AttributeError) as error:
            raise BadInput(
                f"--judge_prompts: {path}: prompt_template can't be filled in ({error!r})"
            ) from None
        files.check_places(path, "prompt_template", filled, marks)

    def _render(self, question: str, first: str, second: str) -> str:
        values = {"QUESTION": question, "ANSWER_A": first, "ANSWER_B": second}
        older = {"question_1": question, "answer_1": first, "answer_2": second}
        return self.template.format(**values, **older)

    def messages(self, question: Question, first: str, second: str) -> list[Message]:
        """What the judge is asked about two answers to a question."""
        system = self.system.get(question.category) or self.system.get("")
        if not system:
            raise BadInput(f"--judge_prompts: system_prompt has none for category {question.category!r}")
        user = self._render(question.turns[0], first, second)
        return [Message(role="system", content=system), Message(role="user", content=user)]


def _read_prompts(path: str) -> tuple[str, dict[str, str]]:
    """(template, system prompts by category) of a file; it may have none of the latter.

    Raises BadInput where they are no texts.
    """
    try:
        given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        template, system = given["prompt_template"], given.get("system_prompt", {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError):
        template = system = None
    if isinstance(template, list) and len(template) == 1:  # one for each of the user's turns
        (template,) = template
    by_category = {"": system} if isinstance(system, str) else system
    texts = [template, *by_category.values()] if isinstance(by_category, dict) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise BadInput(
            f"--judge_prompts: {path} must be YAML with prompt_template (a text) and, unless DICE's is to be "
            "used, system_prompt (a text, or texts by category), as Arena-Hard has them"
        )
    return template, by_category


def judge_options(questions: Questions) -> dict[str, Any]:
    """How the benchmark asks its judge."""
    return {"temperature": 0.0, "max_tokens": 4096 if questions.version == "v0.1" else 16000}


def asked(questions: Questions, answers: list[Row], found: dict[str, Row], prompts: Prompts) -> list[Asked]:
    """Two games per question: the baseline as A, then the model as A."""
    games = []
    for question, row in zip(questions.items, answers, strict=True):
        ours, theirs = (r["messages"][-1]["content"]["answer"] for r in (row, found[question.id]))
        games.append((f"{question.id}/0", prompts.messages(question, theirs, ours)))
        games.append((f"{question.id}/1", prompts.messages(question, ours, theirs)))
    return games


def read_verdict(text: str) -> str | None:
    """The last verdict label of a judge's text: in double brackets, or, where none is, in single ones."""
    for pattern in VERDICT:
        if labels := [label for label in pattern.findall(text.upper()) if label in LABELS]:
            return labels[-1]
    return None


def score(questions: Questions, verdicts: dict[str, str]) -> Verdicts:
    """The model's share of battles won. Questions without both verdicts (not all lack one) are left out.

    The standard error is that of a ratio of two sums over questions: sqrt(Q / (Q - 1) * sum (w - R n)^2) / N
    with w of n battles won in a question, R the share and N all battles of the Q questions.
    """
    battles: dict[str, tuple[float, int, str]] = {}
    for question in questions.items:
        games = [verdicts.get(f"{question.id}/{game}") for game in (0, 1)]
        if None in games:
            continue
        (lost, n_0), (won, n_1) = (LABELS[label] for label in games)  # A is the baseline, then the model
        battles[question.id] = ((1 - lost) * n_0 + won * n_1, n_0 + n_1, question.category)
    share = _share(battles.values())
    total, count = sum(n for _, n, _ in battles.values()), len(battles)
    spread = sum((wins - share * n) ** 2 for wins, n, _ in battles.values())
    error = math.sqrt(spread * count / (count - 1)) / total if count > 1 else None
    categories = sorted({category for _, _, category in battles.values()})
    parts = {name: _share(b for b in battles.values() if b[2] == name) for name in categories}
    return Verdicts(share, error, 2 * count, parts if len(parts) > 1 else {})


def _share(battles: Iterable[tuple[float, int, str]]) -> float:
    wins, counts, _ = zip(*battles, strict=True)
    return sum(wins) / sum(counts)


def judgment_rows(
    task: Task,
    generator: str,
    found: dict[str, Row],
    judged: dict[str, Judgment],
    asked_for: dict[str, list[Message]],
) -> Iterator[Row]:
    """Rows of the benchmark's `model_judgment`."""
    for question in task.items:
        names = [f"{question.id}/{game}" for game in (0, 1)]
        yield {
            "uid": question.id,
            "category": question.category,
            "judge": task.server.model,
            "model": generator,
            "baseline": found[question.id]["model"],
            "games": [
                {
                    "score": judged[name].verdict,
                    "judgment": {"answer": judged[name].text},
                    "prompt": asked_for[name],
                }
                for name in names
            ],
        }
