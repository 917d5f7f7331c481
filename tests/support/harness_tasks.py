"""Task files for lm_eval with a few questions of their own: choices to weigh, and answers to write."""

import json
from pathlib import Path

CHOICES = [
    {"question": "Two and two is", "choices": ["three", "four", "five"], "gold": 1},
    {"question": "Fresh snow is", "choices": ["white", "black", "green"], "gold": 0},
    {"question": "Tea is a", "choices": ["boat", "star", "drink"], "gold": 2},
    {"question": "A bee can", "choices": ["fly", "read"], "gold": 0},
]
ANSWERS = [{"question": f"Tell me about {topic}.", "wanted": letter} for topic, letter in ("ta", "ce", "bo")]

CHECK = """
def said(doc, results):
    return {"has_it": float(doc["wanted"] in results[0]), "letters": float(len(results[0]))}
"""


def choices(folder: Path) -> Path:
    """A task whose choices a model weighs by their log-probs."""
    data = written(folder / "choices.jsonl", CHOICES)
    return task_file(
        folder / "choices.yaml",
        task="little_choices",
        dataset_kwargs={"data_files": {"test": str(data)}},
        output_type="multiple_choice",
        doc_to_text="{{question}}",
        doc_to_choice="choices",
        doc_to_target="gold",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )


def answers(folder: Path, **changes: object) -> Path:
    """A task that a model answers in words, checked by a function beside the file."""
    data = written(folder / "answers.jsonl", ANSWERS)
    (folder / "check.py").write_text(CHECK)
    mean = {"aggregation": "mean", "higher_is_better": True}
    own = {
        "task": "little_answers",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{wanted}}",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": 12},
        "metric_list": [{"metric": "has_it", **mean}, {"metric": "letters", **mean}],
    }
    path = task_file(folder / "answers.yaml", **own | changes)
    path.write_text(path.read_text() + "process_results: !function check.said\n")
    return path


def task_file(path: Path, **said: object) -> Path:
    """A task file: JSON is YAML, one key a line."""
    said = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0}, **said}
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in said.items()))
    return path


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path
