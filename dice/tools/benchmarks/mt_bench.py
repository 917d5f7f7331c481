"""MT-Bench: 80 conversations of two turns, each answer graded from 1 to 10 by itself.

The second answer is graded with the first in view. For mathematics, reasoning and coding the judge also sees
reference answers. The score is the mean grade over questions and turns.
"""

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.recipe.keys import Recipe
from dice.run.rows import Message, prompt_id
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks.judging import Judged, JudgedHere, Score
from dice.tools.benchmarks.questions import Decoding, HubFile, Question
from dice.tools.benchmarks.task import Reply, Row

SPACE = "lmsys/mt-bench"
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0,
    "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
WITH_REFERENCE = ("math", "reasoning", "coding")
GRADE = (re.compile(r"\[\[(\d+(?:\.\d*)?)\]\]"), re.compile(r"\[(\d+(?:\.\d*)?)\]"))  # as asked; sloppily
OWN_PROMPTS = files.PROMPTS / "mt_bench.jsonl"
PROMPTS = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")


class Prompts:
    """What the judge is asked: a file like FastChat's judge_prompts.jsonl, or else DICE's own.

    Raises BadInput for a file of no use.
    """

    def __init__(self, path: str | None) -> None:
        file = files.local(path, "judge_prompts") if path else OWN_PROMPTS
        rows = files.read_rows(file, {"name": str, "system_prompt": str, "prompt_template": str})
        self.named = {row["name"]: (row["system_prompt"], row["prompt_template"]) for _, row in rows}
        self.notes = [] if path else [files.OWN_PROMPTS]
        if missing := sorted({*PROMPTS} - self.named.keys()):
            raise BadInput(f"--judge_prompts: {path} lacks {', '.join(missing)}")
        questions, answers = ([f"<{what} {number}>" for number in (1, 2)] for what in ("question", "answer"))
        for name in PROMPTS:
            seen = 2 if name.endswith("multi-turn") else 1
            filled = self._fill(name, questions, answers, ["", ""])
            files.check_filled(path, f"prompt {name!r}", filled, [*questions[:seen], *answers[:seen]])

    def messages(
        self, question: Question, turn: int, answers: list[str], reference: list[str] | None
    ) -> list[Message]:
        """What the judge is asked about the answer to a turn, 0 or 1."""
        name = _prompt_name(question, turn)
        user = self._fill(name, question.turns, answers, reference)
        return [Message(role="system", content=self.named[name][0]), Message(role="user", content=user)]

    def _fill(self, name: str, turns: Sequence[str], answers: list[str], reference: list[str] | None) -> str:
        values = {"question": turns[0], "answer": answers[0]}
        for what, texts in (("question", turns), ("answer", answers), ("ref_answer", reference or ())):
            values |= {f"{what}_{number}": text for number, text in enumerate(texts, 1)}
        try:
            return self.named[name][1].format(**values)
        except (LookupError, ValueError, AttributeError) as error:
            raise BadInput(f"--judge_prompts: prompt {name!r} can't be filled in ({error!r})") from None


def _prompt_name(question: Question, turn: int) -> str:
    kind = "single-math-v1" if question.category in WITH_REFERENCE else "single-v1"
    return kind + ("-multi-turn" if turn else "")


class MtBench(JudgedHere):
    """The 80 questions, as FastChat has them."""

    name, title, is_graded = "mt_bench", "MT-Bench", True
    source = HubFile(SPACE, "data/mt_bench/question.jsonl", "space")
    columns, key = {"question_id": object, "category": str, "turns": list}, "question_id"
    hint = " (MT-Bench's question.jsonl, as FastChat has it)"
    versions = {80: ""}
    judge_model = "gpt-4"
    prompts = Prompts

    def question(self, number: int, where: str, row: Row) -> Question:
        turns, category = row["turns"], row["category"]
        if len(turns) != 2 or not all(isinstance(turn, str) for turn in turns):
            raise BadInput(f"{where}: an MT-Bench question has two turns, each a text")
        if category not in TEMPERATURES:
            raise BadInput(f"{where}: unknown category {category!r}; there are {', '.join(TEMPERATURES)}")
        return Question(str(row["question_id"]), category, tuple(turns), row)

    def decoding(self, recipe: Recipe) -> Decoding:
        """A temperature by category, at most 1,024 tokens a turn, as FastChat has it."""
        return Decoding(temperature=0.7, top_p=1.0, max_new_tokens=1024, by_category=TEMPERATURES)

    def judge_options(self) -> dict[str, Any]:
        return {"temperature": 0.0, "max_tokens": 2048}

    def answer_row(self, question: Question, generator: str, replies: list[Reply]) -> Row:
        """A row of the benchmark's `model_answer`; `tstamp` is 0, so that equal answers are equal files."""
        texts = [reply.text for reply in replies]
        said = [Message(role=generator, content=text) for text in texts]
        return {
            "question_id": question.row["question_id"],
            "answer_id": prompt_id([Message(role="user", content=question.turns[0]), *said]),
            "model_id": generator,
            "choices": [{"index": 0, "turns": texts}],
            "tstamp": 0.0,
        }

    def references(self) -> tuple[dict[str, list[str]], list[Path]]:
        """The reference answers to both turns."""
        hub = HubFile(SPACE, "data/mt_bench/reference_answer/gpt-4.jsonl", "space")
        path = files.fetch(self.options.references, hub, "references")
        found = {}
        for where, row in files.read_rows(path, {"question_id": object, "choices": list}):
            try:
                turns = _turns(row)
            except (LookupError, TypeError):
                turns = None
            if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
                raise BadInput(f"{where}: no choices[0].turns, which a reference answer has")
            found[str(row["question_id"])] = turns
        for question in self.questions:
            if question.category in WITH_REFERENCE and len(found.get(question.id, [])) != 2:
                raise BadInput(
                    f"{path}: no reference answers to question {question.id}, which {question.category} needs"
                )
        return found, [path]

    def ask(
        self, question: Question, answer: Row, reference: list[str], prompts: Prompts, n: int
    ) -> list[Message]:
        """Two gradings: of the answer to turn 0, and of that to turn 1."""
        return prompts.messages(question, n, _turns(answer), reference)

    @staticmethod
    def read_verdict(text: str) -> float | None:
        """The grade of a judge's text: the first in double brackets, else the first in single ones."""
        for pattern in GRADE:
            if found := pattern.search(text):
                grade = float(found[1])
                return grade if 1 <= grade <= 10 else None
        return None

    @staticmethod
    def score(questions: Sequence[Question], verdicts: dict[str, float]) -> Score:
        """The mean grade over questions and turns; its standard error over the questions' means."""
        grades = {
            question.id: [verdicts[name] for turn in (0, 1) if (name := f"{question.id}/{turn}") in verdicts]
            for question in questions
        }
        means = [_mean(both) for both in grades.values() if both]
        middle = _mean(means)
        spread = sum((mean - middle) ** 2 for mean in means)
        error = math.sqrt(spread / (len(means) - 1) / len(means)) if len(means) > 1 else None
        parts = {
            f"turn {turn + 1}": _mean(v for key, v in verdicts.items() if key.endswith(f"/{turn}"))
            for turn in (0, 1)
        }
        for category in sorted({question.category for question in questions}):
            parts[category] = _mean(g for q in questions if q.category == category for g in grades[q.id])
        parts = {name: mean for name, mean in parts.items() if not math.isnan(mean)}
        return Score(_mean(verdicts.values()), error, len(verdicts), parts)

    def judgment_rows(
        self, question: Question, both: list[Judged], reference: Any, judge: str, model: str
    ) -> list[Row]:
        """Rows of the benchmark's single-answer `model_judgment`; a grade that can't be read is -1."""
        return [
            {
                "question_id": question.row["question_id"],
                "model": model,
                "judge": [judge, _prompt_name(question, turn)],
                "user_prompt": asked[-1]["content"],
                "judgment": judgment.text,
                "score": -1 if judgment.verdict is None else judgment.verdict,
                "turn": turn + 1,
                "tstamp": 0.0,
            }
            for turn, (asked, judgment) in enumerate(both)
        ]


def _turns(row: Row) -> list[str]:
    return row["choices"][0]["turns"]


def _mean(grades: Iterable[float]) -> float:
    listed = [*grades]
    return sum(listed) / len(listed) if listed else math.nan
