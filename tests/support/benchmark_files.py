"""Question files and reference answers in the benchmarks' formats, with made-up questions."""

import json
from pathlib import Path
from typing import Any

CATEGORIES = ("writing", "roleplay", "extraction", "math", "coding", "reasoning", "stem", "humanities")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def alpaca_eval(path: Path, count: int = 805, generator: str = "gpt4_1106_preview") -> Path:
    rows = [
        {
            "dataset": "helpful_base" if n % 2 else "koala",
            "instruction": f"Tell me {n} things\n about «{n}». ",
            "output": "dog " * (n % 7 + 1),
            "generator": generator,
        }
        for n in range(count)
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def arena_hard(path: Path, count: int = 500) -> Path:
    def category(n: int) -> str:
        if count == 500:
            return "arena-hard-v0.1"
        return "creative_writing" if n >= 500 else "hard_prompt"

    rows = [
        {"uid": f"q{n:03}", "category": category(n), "cluster": "c", "prompt": f"Solve {n}.\n\n"}
        for n in range(count)
    ]
    return write_lines(path, rows)


def arena_answers(path: Path, model: str, ids: list[str]) -> Path:
    rows = [
        {
            "uid": uid,
            "ans_id": "x",
            "model": model,
            "messages": [
                {"role": "user", "content": "?"},
                {"role": "assistant", "content": {"answer": f"baseline {uid}"}},
            ],
            "tstamp": 1.0,
            "metadata": {},
        }
        for uid in ids
    ]
    return write_lines(path, rows)


def mt_bench(path: Path, count: int = 80) -> Path:
    rows = [
        {
            "question_id": 81 + n,
            "category": CATEGORIES[n // 10 % 8],
            "turns": [f"First question {n}?", f"Second question {n}?"],
        }
        for n in range(count)
    ]
    return write_lines(path, rows)


def mt_references(path: Path) -> Path:
    rows = [
        {
            "question_id": 81 + n,
            "model_id": "gpt-4",
            "choices": [{"index": 0, "turns": [f"first truth {n}", f"second truth {n}"]}],
        }
        for n in range(80)
        if CATEGORIES[n // 10] in ("math", "reasoning", "coding")
    ]
    return write_lines(path, rows)


UIDS = [f"q{n:03}" for n in range(500)]


def arena_options(tmp_path):
    """Options of a small Arena-Hard evaluation: ten questions, twenty games."""
    questions = arena_hard(tmp_path / "questions.jsonl")
    answers = arena_answers(tmp_path / "answers.jsonl", "gpt-4-0314", UIDS)
    return {"questions": str(questions), "references": str(answers), "first": 10, "concurrency": 2}


def mt_options(tmp_path):
    """Options of MT-Bench's first 40 questions: writing, roleplay, extraction and mathematics."""
    questions = mt_bench(tmp_path / "mt.jsonl")
    answers = mt_references(tmp_path / "mt-references.jsonl")
    return {"questions": str(questions), "references": str(answers), "first": 40}
