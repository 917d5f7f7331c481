"""MT-Bench: 80 conversations of two turns, each answer graded from 1 to 10 by itself.

The second answer is graded with the first in view. For mathematics, reasoning and coding the judge also sees
reference answers. The score is the mean grade over questions and turns.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dice.errors import BadInput
from dice.recipe.keys import Recipe
from dice.run.files import write_rows
from dice.run.rows import Judgment, Message, prompt_id
from dice.tools.benchmarks import questions as files
from dice.tools.benchmarks.questions import Decoding, HubFile, Question, Questions
from dice.tools.benchmarks.task import Asked, Options, Reply, Row, Task, Verdicts

NAME, TITLE, ANSWERS, GRADES = "mt_bench", "MT-Bench", "model_answer", True
SPACE = "lmsys/mt-bench"
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0,
    "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
WITH_REFERENCE = ("math", "reasoning", "coding")
GRADE = (re.compile(r"\[\[(\d+\.?\d*)\]\]"), re.compile(r"\[(\d+\.?\d*)\]"))  # as asked for; sloppily

# DICE's own wording; the benchmark's own prompts come by --judge_prompts. Named like the benchmark's.
SYSTEM_PROMPT = "You grade the answers of an assistant, fairly and without favour."
TASK = """Grade the assistant's {which}. Does it do what the user asks, correctly, to the point, in enough \
depth and with care?{reference} First explain your grade in a few sentences. Then end with the grade, a \
number from 1 (useless) to 10 (it could not be better) in double brackets, such as [[4]]."""
COMPARE = " Hold it against the reference answer, and point out what is wrong."
FIRST = "<question>\n{question}\n</question>\n\n"
FIRST_REFERENCE = "<reference answer>\n{ref_answer_1}\n</reference answer>\n\n"
BOTH = "<user>\n{question_1}\n</user>\n\n<assistant>\n{answer_1}\n</assistant>\n\n"
BOTH += "<user>\n{question_2}\n</user>\n\n<assistant>\n{answer_2}\n</assistant>"
BOTH_REFERENCE = "<reference answers>\n{ref_answer_1}\n\n{ref_answer_2}\n</reference answers>\n\n"
ANSWER = "<answer>\n{answer}\n</answer>"


def _own_prompts() -> dict[str, tuple[str, str]]:
    """(system prompt, template) by the benchmark's names of them."""
    one, two = "answer to the question", "second answer (the first is there for context)"
    plain, compared = {"reference": ""}, {"reference": COMPARE}
    return {
        "single-v1": (SYSTEM_PROMPT, TASK.format(which=one, **plain) + "\n\n" + FIRST + ANSWER),
        "single-math-v1": (
            SYSTEM_PROMPT,
            TASK.format(which=one, **compared) + "\n\n" + FIRST + FIRST_REFERENCE + ANSWER,
        ),
        "single-v1-multi-turn": (SYSTEM_PROMPT, TASK.format(which=two, **plain) + "\n\n" + BOTH),
        "single-math-v1-multi-turn": (
            SYSTEM_PROMPT,
            TASK.format(which=two, **compared) + "\n\n" + BOTH_REFERENCE + BOTH,
        ),
    }


def read_questions(options: Options) -> Questions:
    """The 80 questions, as FastChat has them."""
    path = files.fetch(
        options.questions, HubFile(SPACE, "data/mt_bench/question.jsonl", "space"), "questions"
    )
    hint = " (MT-Bench's question.jsonl, as FastChat has it)"
    found = files.read_rows(path, {"question_id": object, "category": str, "turns": list}, hint)
    items = []
    for where, row in found:
        turns = row["turns"]
        if len(turns) != 2 or not all(isinstance(turn, str) for turn in turns):
            raise BadInput(f"{where}: an MT-Bench question has two turns, each a text")
        if row["category"] not in TEMPERATURES:
            raise BadInput(
                f"{where}: unknown category {row['category']!r}; there are {', '.join(TEMPERATURES)}"
            )
        items.append(Question(str(row["question_id"]), row["category"], tuple(turns), row))
    files.check_count(path, len(items), {80: "the one version"}, TITLE)
    files.check_distinct(path, (item.id for item in items))
    return Questions("", items, path)


def decoding(recipe: Recipe) -> Decoding:
    """A temperature by category, at most 1,024 tokens a turn, as FastChat has it."""
    return Decoding(temperature=0.7, top_p=1.0, max_new_tokens=1024, by_category=TEMPERATURES)


def judge_model(questions: Questions) -> str:
    return "gpt-4"


def answers_name(generator: str) -> str:
    return f"{ANSWERS}/{generator}.jsonl"


def write_answers(path: Path, generator: str, questions: Questions, answers: list[list[Reply]]) -> list[str]:
    """Rows of the benchmark's `model_answer`; `tstamp` is 0, so that equal answers are equal files."""

    def rows() -> Iterator[Row]:
        for question, replies in zip(questions.items, answers, strict=True):
            texts = [reply.text for reply in replies]
            said = [Message(role=generator, content=text) for text in texts]
            yield {
                "question_id": question.row["question_id"],
                "answer_id": prompt_id([Message(role="user", content=question.turns[0]), *said]),
                "model_id": generator,
                "choices": [{"index": 0, "turns": texts}],
                "tstamp": 0.0,
            }

    write_rows(path, rows())
    return []


def references(questions: Questions, options: Options) -> tuple[dict[str, list[str]], list[Path]]:
    """The reference answers of both turns, by question. Raises BadInput where one is missing."""
    hub = HubFile(SPACE, "data/mt_bench/reference_answer/gpt-4.jsonl", "space")
    path = files.fetch(options.references, hub, "references")
    found = {}
    for where, row in files.read_rows(path, {"question_id": object, "choices": list}):
        try:
            turns = row["choices"][0]["turns"]
        except (LookupError, TypeError):
            turns = None
        if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
            raise BadInput(f"{where}: no choices[0].turns, which a reference answer has")
        found[str(row["question_id"])] = turns
    for question in questions.items:
        if question.category in WITH_REFERENCE and len(found.get(question.id, [])) != 2:
            raise BadInput(
                f"{path}: no reference answers to question {question.id}, which {question.category} needs"
            )
    return found, [path]


def reference_notes(questions: Questions, found: dict[str, list[str]]) -> list[str]:
    return []


class Prompts:
    """What the judge is asked: DICE's wording, or a file like FastChat's judge_prompts.jsonl."""

    def __init__(self, path: str | None) -> None:
        self.named, self.notes = _own_prompts(), [files.OWN_PROMPTS]
        if path is None:
            return
        given = {}
        columns = {"name": str, "system_prompt": str, "prompt_template": str}
        for _, row in files.read_rows(files.local(path, "judge_prompts"), columns):
            given[row["name"]] = (row["system_prompt"], row["prompt_template"])
        if missing := sorted(self.named.keys() - given.keys()):
            raise BadInput(f"--judge_prompts: {path} lacks {', '.join(missing)}")
        self.named, self.notes = given, []
        questions, answers = ([f"<{what} {number}>" for number in (1, 2)] for what in ("question", "answer"))
        for name in _own_prompts():
            seen = 2 if name.endswith("multi-turn") else 1
            filled = self._fill(name, questions, answers, ["", ""])
            files.check_places(path, f"prompt {name!r}", filled, [*questions[:seen], *answers[:seen]])

    def messages(
        self, question: Question, turn: int, answers: list[str], reference: list[str]
    ) -> list[Message]:
        """What the judge is asked about the answer to a turn, 0 or 1."""
        name = _prompt_name(question, turn)
        user = self._fill(name, question.turns, answers, reference)
        return [Message(role="system", content=self.named[name][0]), Message(role="user", content=user)]

    def _fill(self, name: str, turns: Sequence[str], answers: list[str], reference: list[str]) -> str:
        values = {"question": turns[0], "answer": answers[0]}
        for number in (0, 1):
            values |= {f"question_{number + 1}": turns[number], f"answer_{number + 1}": answers[number]}
            if reference:
                values[f"ref_answer_{number + 1}"] = reference[number]
        try:
            return self.named[name][1].format(**values)
        except (LookupError, ValueError, AttributeError) as error:
            raise BadInput(f"--judge_prompts: prompt {name!r} can't be filled in ({error!r})") from None


def _prompt_name(question: Question, turn: int) -> str:
    kind = "single-math-v1" if question.category in WITH_REFERENCE else "single-v1"
    return kind + ("-multi-turn" if turn else "")


def judge_options(questions: Questions) -> dict[str, Any]:
    """How the benchmark asks its judge."""
    return {"temperature": 0.0, "max_tokens": 2048}


def asked(
    questions: Questions, answers: list[Row], found: dict[str, list[str]], prompts: Prompts
) -> list[Asked]:
    """Two gradings per question, one for each turn."""
    gradings = []
    for question, row in zip(questions.items, answers, strict=True):
        turns, reference = row["choices"][0]["turns"], found.get(question.id, [])
        for turn in (0, 1):
            gradings.append((f"{question.id}/{turn}", prompts.messages(question, turn, turns, reference)))
    return gradings


def read_verdict(text: str) -> float | None:
    """The grade of a judge's text: the first in double brackets, else the first in single ones."""
    for pattern in GRADE:
        if found := pattern.search(text):
            grade = float(found[1])
            return grade if 1 <= grade <= 10 else None
    return None


def score(questions: Questions, verdicts: dict[str, float]) -> Verdicts:
    """The mean grade over questions and turns; its standard error over the questions' means."""
    by_question = {}
    for question in questions.items:
        grades = [verdicts[key] for turn in (0, 1) if (key := f"{question.id}/{turn}") in verdicts]
        if grades:
            by_question[question.id] = sum(grades) / len(grades)
    means = [*by_question.values()]
    middle = sum(means) / len(means) if means else math.nan
    spread = sum((mean - middle) ** 2 for mean in means)
    error = math.sqrt(spread / (len(means) - 1) / len(means)) if len(means) > 1 else None
    parts = {}
    for turn in (0, 1):
        parts[f"turn {turn + 1}"] = _mean(v for key, v in verdicts.items() if key.endswith(f"/{turn}"))
    for category in sorted({question.category for question in questions.items}):
        ids = {question.id for question in questions.items if question.category == category}
        parts[category] = _mean(v for key, v in verdicts.items() if key.rpartition("/")[0] in ids)
    parts = {name: mean for name, mean in parts.items() if not math.isnan(mean)}
    return Verdicts(_mean(verdicts.values()), error, len(verdicts), parts)


def _mean(grades: Iterable[float]) -> float:
    listed = [*grades]
    return sum(listed) / len(listed) if listed else math.nan


def judgment_rows(
    task: Task,
    generator: str,
    found: dict[str, list[str]],
    judged: dict[str, Judgment],
    asked_for: dict[str, list[Message]],
) -> Iterator[Row]:
    """Rows of the benchmark's single-answer `model_judgment`; a grade that can't be read is -1."""
    for question in task.items:
        for turn in (0, 1):
            name = f"{question.id}/{turn}"
            verdict = judged[name].verdict
            yield {
                "question_id": question.row["question_id"],
                "model": generator,
                "judge": [task.server.model, _prompt_name(question, turn)],
                "user_prompt": asked_for[name][-1]["content"],
                "judgment": judged[name].text,
                "score": -1 if verdict is None else verdict,
                "turn": turn + 1,
                "tstamp": 0.0,
            }
