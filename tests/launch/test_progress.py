"""The bar of a stage, and what its workers count."""

import json

from dice.launch import progress
from dice.launch.console import console
from dice.launch.progress import Bar, Counter, Tally, read_counters, told_of


def test_the_bar_tells_prompts_tokens_and_time_left():
    bar = Bar("generate", "prompts", lambda: (0, 0))
    assert bar.describe(Tally(0, 1200), 100.0) == "0 of 1,200 prompts"
    assert bar.describe(Tally(200, 1200, 9_000), 130.0) == "200 of 1,200 prompts"
    # 400 prompts in 20 seconds; 600 are left, which take 30; 40,000 tokens in those 20 seconds.
    line = bar.describe(Tally(600, 1200, 49_000), 150.0)
    assert line == "600 of 1,200 prompts · 2,000 tokens/s · 0:00:30 left"
    steps = Bar("train", "steps", lambda: (0, 0))
    assert [steps.describe(Tally(n, 10), float(n)) for n in (1, 3)][
        1
    ] == "3 of 10 steps · 1.0/s · 0:00:07 left"


def test_counters_of_all_workers_add_up(tmp_path):
    first, second = (Counter(tmp_path / f"{rank}.json") for rank in range(2))
    first.expect(10)
    first.add(3, tokens=100)
    second.add(2, tokens=50)
    for counter in (first, second):
        counter.write()
    (tmp_path / "2.json").write_text("[")  # being written at this moment
    assert read_counters(tmp_path) == Tally(5, 10, 150)
    assert json.loads((tmp_path / "1.json").read_text()) == [2, 0, 50]
    assert read_counters(tmp_path / "nothing") == Tally(0, 0)


def test_what_a_preparation_counts_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PREPARING", tmp_path / "preparing.json")
    counts = iter([(0, 0), (3, 40), (3, 40)])
    told = told_of(lambda: next(counts), "steps", tmp_path / "start.log")
    monkeypatch.setenv(progress.IN_PREPARATION, "results/mine")
    assert told() == Tally(0, 0) and not (tmp_path / "preparing.json").exists()
    assert told() == Tally(3, 40)
    record = {"run": "results/mine", "log": f"{tmp_path}/start.log", "unit": "steps", "done": 3, "total": 40}
    assert json.loads((tmp_path / "preparing.json").read_text()) == record
    (tmp_path / "preparing.json").unlink()
    assert told() == Tally(3, 40) and not (tmp_path / "preparing.json").exists()  # nothing new


def test_other_work_tells_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PREPARING", tmp_path / "preparing.json")
    monkeypatch.delenv(progress.IN_PREPARATION, raising=False)
    assert told_of(lambda: (3, 40), "steps", tmp_path / "log")() == Tally(3, 40)
    assert not (tmp_path / "preparing.json").exists()


def test_a_narrow_terminal_gets_what_matters_most(monkeypatch):
    """Whole parts are left out, the rate first."""
    monkeypatch.setattr(progress, "BESIDE", console.width - 40)
    bar = Bar("generate", "prompts", lambda: (0, 0))
    bar.describe(Tally(200, 1200, 9_000), 130.0)
    assert bar.describe(Tally(600, 1200, 49_000), 150.0) == "600 of 1,200 prompts · 0:00:30 left"
