"""Prompts, and a worker that is alone, for tests of generation."""

from dice.launch.worker import Worker
from dice.run.rows import Prompt, prompt_id

SAMPLES = 8  # as in fake_world's settings


def make_prompts(texts):
    turns = [[{"role": "user", "content": text}] for text in texts]
    return [Prompt(prompt_id(messages), messages) for messages in turns]


def alone(run):
    return Worker(0, 1, 0, run.round_dir(1) / "generate.progress")
