"""The same prompt, answered by every model: which prompts are taken, and what is said of the answers."""

import pytest
from reported import write_answers, write_evaluation, write_round

from dice.run import files
from dice.stages import evaluate
from dice.tools.report import answers
from dice.tools.report.collect import collect

MODELS = ("SFT", "DPO", "round-1")


@pytest.fixture
def run(fake_run):
    """Three prompts, whose mean qualities change by +0.5, 0 and -0.25 from DPO to round 1."""
    write_round(fake_run)
    write_evaluation(fake_run, (0.6, 0.55, 0.01, 110.0))
    qualities = {"up": (0, (0, 0.5), (0.25, 1)), "same": (0, (1, 0), (0, 1)), "down": (0, (1, 1), (0.5, 1))}
    table = {
        prompt: {model: [(f"{model} {n}", q) for n, q in enumerate(each)] for model, each in by_model.items()}
        for prompt, (_, start, last) in qualities.items()
        for by_model in [{"SFT": (0, 0), "DPO": start, "round-1": last}]
    }
    write_answers(fake_run, table)
    return fake_run


def test_every_model_answers_the_prompts_that_gained_and_lost_most(run):
    found = answers.answers(collect(run))
    assert [(each.messages[0]["content"], each.gain) for each in found] == [
        ("up", 0.375),
        ("down", -0.25),
        ("same", 0.0),
    ]
    assert [vars(answer) for answer in found[0].answers] == [
        {"model": "SFT", "text": "SFT 0", "quality": 0, "mean": 0},
        {"model": "DPO", "text": "DPO 0", "quality": 0, "mean": 0.25},
        {"model": "round-1", "text": "round-1 0", "quality": 0.25, "mean": 0.625},
    ]


def test_answers_fit_into_their_room(run, monkeypatch):
    monkeypatch.setattr(answers, "LONGEST", 1)
    first = answers.answers(collect(run))[0]
    assert [answer.text for answer in first.answers][0] == "S … [4 more characters]"
    monkeypatch.setattr(answers, "MOST_BYTES", answers.size(first))
    assert answers.answers(collect(run)) == [first]


@pytest.mark.parametrize("name", ["prompts.jsonl", "quality/DPO.jsonl", "responses"])
def test_there_are_none_where_their_files_are_gone(run, name):
    files.remove(evaluate.STAGE.folder(run, 0) / name)
    assert answers.answers(collect(run)) == []
