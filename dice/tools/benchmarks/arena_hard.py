"""Arena-Hard: each answer against a baseline's, in both orders, by a judge with five verdicts.

A win counts 1 and a tie 1/2 of a battle; a verdict "significantly better" counts as three battles. The
score is the mean over battles, as in the benchmark's own table.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from dice.errors import BadInput
from dice.recipe.keys import Recipe
from dice.run.rows import Message, prompt_id
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks.judging import Judged, JudgedHere, Score
from dice.tools.benchmarks.questions import Decoding, HubFile, Question
from dice.tools.benchmarks.style import markdown_counts, token_counter
from dice.tools.benchmarks.task import Reply, Row

REPOSITORY = "lmarena-ai/arena-hard-auto"
JUDGES = {"v0.1": "gpt-4-1106-preview", "v2.0": "gpt-4.1"}
BASELINES = {  # by version, then by category; "" is every other
    "v0.1": {"": "gpt-4-0314"},
    "v2.0": {"": "o3-mini-2025-01-31", "creative_writing": "gemini-2.0-flash-001"},
}
NEWER_CATEGORIES = {"hard_prompt", "creative_writing"}  # of v2.0
STRONG = 3  # battles that a verdict "significantly better" counts as
# What a label says of A, in battles: the share that A wins, and how many they are.
LABELS = {"A>>B": (1.0, STRONG), "A>B": (1.0, 1), "A=B": (0.5, 1), "A<B": (0.0, 1), "A<<B": (0.0, STRONG)}
LABELS |= {"B<<A": (1.0, STRONG), "B<A": (1.0, 1), "B=A": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, STRONG)}
VERDICT = (re.compile(r"\[\[([AB<>=]+)\]\]"), re.compile(r"\[([AB<>=]+)\]"))  # as asked for; sloppily
OWN_PROMPTS = str(files.PROMPTS / "arena_hard.yaml")
OWN_TOKENS = "the model's own tokenizer"


class Prompts:
    """What the judge is asked: a YAML file like the benchmark's configuration, or else DICE's own.

    Raises BadInput for a file of no use.
    """

    def __init__(self, path: str | None) -> None:
        self.template, self.system = _read_prompts(path or OWN_PROMPTS)
        self.notes = [] if path else [files.OWN_PROMPTS]
        if not self.system:
            self.system = _read_prompts(OWN_PROMPTS)[1]
            self.notes = [f"the judge's system prompt is DICE's own: {Path(path).name} has none"]
        marks = ("<the question>", "<the first answer>", "<the second answer>")
        try:
            filled = self._fill(*marks)
        except (LookupError, ValueError, AttributeError) as error:
            raise BadInput(
                f"--judge_prompts: {path}: prompt_template can't be filled in ({error!r})"
            ) from None
        files.check_filled(path, "prompt_template", filled, marks)

    def _fill(self, question: str, first: str, second: str) -> str:
        values = {"QUESTION": question, "ANSWER_A": first, "ANSWER_B": second}
        older = {"question_1": question, "answer_1": first, "answer_2": second}
        return self.template.format(**values, **older)

    def messages(self, question: Question, first: str, second: str) -> list[Message]:
        """What the judge is asked about two answers to a question."""
        system = self.system.get(question.category) or self.system.get("")
        if not system:
            raise BadInput(f"--judge_prompts: system_prompt has none for category {question.category!r}")
        user = self._fill(question.turns[0], first, second)
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


class ArenaHard(JudgedHere):
    """v0.1 has 500 questions and is the default, v2.0 has 750."""

    name, title = "arena_hard", "Arena-Hard"
    source = HubFile(REPOSITORY, "data/arena-hard-v0.1/question.jsonl")
    columns, key = {"uid": str, "category": str, "prompt": str}, "uid"
    hint = " (before March 2025 they were question_id and turns: take the current file)"
    versions = {500: "v0.1", 750: "v2.0"}
    prompts = Prompts

    def question(self, number: int, where: str, row: Row) -> Question:
        return Question(row["uid"], row["category"], (row["prompt"],), row)

    def version_of(self, items: list[Question]) -> str:
        """v2.0 where a question has one of its categories."""
        return "v2.0" if {item.category for item in items} & NEWER_CATEGORIES else "v0.1"

    def decoding(self, recipe: Recipe) -> Decoding:
        """The most probable token, at most 4,096 of them, as the benchmark's configuration has it."""
        return Decoding(temperature=0.0, top_p=1.0, max_new_tokens=4096)

    @property
    def judge_model(self) -> str:
        return JUDGES[self.version]

    def judge_options(self) -> dict[str, Any]:
        return {"temperature": 0.0, "max_tokens": 4096 if self.version == "v0.1" else 16000}

    def answer_row(self, question: Question, generator: str, replies: list[Reply]) -> Row:
        """A row of the benchmark's `model_answer`; `tstamp` is 0, so that equal answers are equal files."""
        (reply,) = replies
        encoding = token_counter()
        count = len(encoding.encode(reply.text, disallowed_special=())) if encoding else reply.n_tokens
        prompt = Message(role="user", content=question.turns[0])
        return {
            "uid": question.id,
            "ans_id": prompt_id([prompt, Message(role=generator, content=reply.text)]),
            "model": generator,
            "messages": [prompt, {"role": "assistant", "content": {"answer": reply.text}}],
            "tstamp": 0.0,
            "metadata": {"token_len": count, **markdown_counts(reply.text)},
            **({} if encoding else {"token_len_by": OWN_TOKENS}),
        }

    def answer_notes(self) -> list[str]:
        if token_counter():
            return []
        return [
            f"token_len is by {OWN_TOKENS} (token_len_by says so): tiktoken's file for gpt-4o is not here "
            "and can't be downloaded; with style control, set TIKTOKEN_CACHE_DIR to a folder that has it"
        ]

    def references(self) -> tuple[dict[str, Row], list[Path]]:
        """The baseline's answer to each question."""
        baselines = BASELINES[self.version]
        if self.options.references:
            paths = [files.local(path, "references") for path in self.options.references.split(",")]
        else:
            folder = f"data/arena-hard-{self.version}/model_answer"
            hub = [HubFile(REPOSITORY, f"{folder}/{model}.jsonl") for model in baselines.values()]
            paths = [files.fetch(None, file, "references") for file in hub]
        answers: dict[str, dict[str, Row]] = {}  # by question, then by model
        for path in paths:
            for where, row in files.read_rows(path, {"uid": str, "model": str, "messages": list}):
                _check_answer(where, row)
                answers.setdefault(row["uid"], {})[row["model"]] = row
        found = {}
        for question in self.questions:
            by_model = answers.get(question.id, {})
            wanted = baselines.get(question.category, baselines[""])
            if not by_model:
                raise BadInput(f"{paths[0]}: no baseline answer to question {question.id!r}")
            if wanted not in by_model and len(by_model) > 1:
                raise BadInput(
                    f"{paths[0]}: no answer of {wanted} to question {question.id!r}, only of others"
                )
            found[question.id] = by_model.get(wanted) or next(iter(by_model.values()))
        return found, paths

    def reference_notes(self, references: dict[str, Row]) -> list[str]:
        own = set(BASELINES[self.version].values())
        others = sorted({row["model"] for row in references.values()} - own)
        return [f"baseline {', '.join(others)} instead of {', '.join(sorted(own))}"] if others else []

    def ask(self, question: Question, answer: Row, reference: Row, prompts: Prompts, n: int) -> list[Message]:
        """Two games: in game 0 the baseline is A, in game 1 the model is."""
        theirs, ours = _answer(reference), _answer(answer)
        return prompts.messages(question, ours, theirs) if n else prompts.messages(question, theirs, ours)

    @staticmethod
    def read_verdict(text: str) -> str | None:
        """The last verdict label of a judge's text: in double brackets, or, where none is, in single ones."""
        for pattern in VERDICT:
            if labels := [label for label in pattern.findall(text.upper()) if label in LABELS]:
                return labels[-1]
        return None

    @staticmethod
    def score(questions: Sequence[Question], verdicts: dict[str, str]) -> Score:
        """The model's share of battles won. Questions without both verdicts (not all lack one) are left out.

        The standard error is that of a ratio of two sums over questions, sqrt(Q / (Q - 1) * sum (w - R n)^2)
        / N, with w of n battles won in a question, R the share and N all battles of the Q questions.
        """
        battles: list[tuple[str, float, int]] = []  # of each question: category, battles won, battles
        for question in questions:
            games = [verdicts.get(f"{question.id}/{game}") for game in (0, 1)]
            if None not in games:
                # A is the baseline, then the model.
                (lost, n_0), (won, n_1) = (LABELS[label] for label in games)
                battles.append((question.category, (1 - lost) * n_0 + won * n_1, n_0 + n_1))
        share = _share(battles)
        total, count = sum(n for _, _, n in battles), len(battles)
        spread = sum((wins - share * n) ** 2 for _, wins, n in battles)
        error = math.sqrt(spread * count / (count - 1)) / total if count > 1 else None
        categories = sorted({category for category, _, _ in battles})
        parts = {name: _share(battle for battle in battles if battle[0] == name) for name in categories}
        return Score(share, error, 2 * count, parts if len(parts) > 1 else {})

    def judgment_rows(
        self, question: Question, both: list[Judged], reference: Row, judge: str, model: str
    ) -> list[Row]:
        """A row of the benchmark's `model_judgment`."""
        games = [
            {"score": judgment.verdict, "judgment": {"answer": judgment.text}, "prompt": asked}
            for asked, judgment in both
        ]
        about = {"uid": question.id, "category": question.category, "judge": judge, "model": model}
        return [{**about, "baseline": reference["model"], "games": games}]


def _answer(row: Row) -> str:
    return row["messages"][-1]["content"]["answer"]


def _check_answer(where: str, row: Row) -> None:
    try:
        is_text = isinstance(_answer(row), str)
    except (LookupError, TypeError):
        is_text = False
    if not is_text:
        raise BadInput(f"{where}: the last message has no content.answer, which an Arena-Hard answer has")


def _share(battles: Iterable[tuple[str, float, int]]) -> float:
    _, wins, counts = zip(*battles, strict=True)
    return sum(wins) / sum(counts)
