"""The report of a run: what it says against runs written by hand, and what it withstands."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser

import fake_world
import pytest
from commands import run_dice
from markupsafe import Markup
from reported import (
    TABLE,
    write_evaluation,
    write_manifest,
    write_pairs,
    write_round,
    write_samples,
)

from dice.errors import BadInput
from dice.launch.console import with_error
from dice.run import files
from dice.tools.benchmarks.results import Result as Benchmarked
from dice.tools.benchmarks.results import in_words
from dice.tools.report import tables, write_report
from dice.tools.report.collect import collect
from dice.tools.report.svg import Plot
from dice.tools.report.text import visible
from dice.tools.report.verdict import verdict

NASTY = "</script><script>alert(1)</script> & <b>bold</b> \x1b[31mred\x1b[0m \u202eback \x00"


@pytest.fixture
def run(fake_run):
    """Round 1 finished, round 2 not begun, nothing judged."""
    write_round(fake_run)
    return fake_run


@pytest.fixture
def undrawn(monkeypatch):
    """No plots, which take most of the time."""
    monkeypatch.setattr("dice.tools.report.figures.of_round", lambda done: [])
    monkeypatch.setattr("dice.tools.report.comparison.of_models", lambda collected: [])


def page_of(run, **options) -> str:
    write_report(run, **options)
    return (run.path / "report.html").read_text(encoding="utf-8")


def test_numbers_are_those_of_the_files(run):
    (done,) = collect(run).rounds
    assert done.scored.rewards.tolist() == [1.0, 3.0, -2.0, 0.5, 2.5, -0.5]
    assert done.scored.lengths.tolist() == [4, 6, 2, 4, 2, 6]
    assert done.scored.prompts.tolist() == [0, 0, 0, 1, 1, 1]
    assert (done.scored.chosen.tolist(), done.scored.rejected.tolist()) == ([1, 4], [2, 5])
    assert done.manifest("pair").figures["length_difference"] == 0  # +4 and -4 characters
    assert done.balance.shape[0] == 2 and len(done.curves) == 3


def test_rounds_at_a_glance(run):
    lines = tables.glance(collect(run))
    assert lines["Responses sampled"] == ["8"]
    assert lines["… cut off at the length limit"] == ["12.5%"]
    assert lines["Mean length, characters"] == ["4.0"]
    assert lines["Mean reward, nats"] == ["+0.75"]  # (1 + 3 - 2 + 0.5 + 2.5 - 0.5) / 6
    assert lines["Chosen longer by, characters"] == ["+0.0 → +0.0"]
    assert lines["Median margin (5% to 95%), nats"] == ["4.00 (3.10 to 4.90)"]  # of 5 and 3
    assert lines["Pairs: generated + offline"] == ["2 + 0"]
    assert lines["Training loss at the end"] == ["0.600"]
    assert lines["Training accuracy at the end"] == ["75%"]


def test_what_was_left_out_accounts_for_what_went_in(run):
    """Of 2 prompts with 3 scored responses each, 2 pairs take 4: 2 responses are in none."""
    score, pair = (collect(run).rounds[0].manifest(stage) for stage in ("score", "pair"))
    assert (tables.rows(score), tables.rows(pair)) == (
        ["8 responses", "6 rewards"],
        ["6 responses", "2 pairs"],
    )
    assert tables.left_out(score) == "2 under 4 characters"
    assert tables.left_out(pair) == "2 responses in no pair"


def test_the_first_screen_has_models_and_verdict(run, undrawn):
    run.recipe.rounds = 1
    write_evaluation(run, (0.6, 0.55, 0.01, 110.0))
    page = page_of(run, quick=True)
    assert "It worked: round 1 wins 55.0% ± 1.0% against the policy it started from." in page
    assert "Answers went from 100.0 to 110.0 characters (+10%)." in page
    for cell in ("0.600", "30.0% ± 1.0%", "1,600 judged answers", "<td>8 responses</td>"):
        assert cell in page
    assert "Not there" not in page and "No stage found anything worth a warning." in page


def test_benchmarks_stand_beneath_the_models(run, undrawn):
    result = Benchmarked(
        "alpaca_eval2", "round-1", "some <judge>", 0.258, False, 0.014, 0.251, 805, 800, 3, 2, 1234.0, 0,
        notes=["judge some <judge> instead of x"],
    )  # fmt: skip
    folder = run.path / "benchmarks" / "alpaca_eval2" / "round-1" / "judged-by-x"
    fake_world.write_manifest(folder, "judge", result=asdict(result))
    page = page_of(run, quick=True)
    for cell in ("alpaca_eval2", "some &lt;judge&gt;", "25.8% ± 1.4%", "25.1%", "1,234", "800"):
        assert f"<td>{cell}</td>" in page
    assert (
        "<b>alpaca_eval2, judge some &lt;judge&gt;</b>: judge some &lt;judge&gt; instead of x; "
        "round-1: judgments left out: 3 unreadable, 2 unanswered</p>"
    ) in page


def test_a_task_of_lm_eval_has_its_own_metric(run, undrawn):
    result = Benchmarked(
        "lm_eval-gsm8k", "DPO", "lm_eval 0.4.13", 0.25, False, 0.0125, None, 8, 8, 0, 0, None, None,
        notes=["a try-out"], metric="exact_match,strict",
    )  # fmt: skip
    folder = run.path / "benchmarks" / "lm_eval-gsm8k" / "DPO" / "judged-by-lm_eval-0.4.13"
    fake_world.write_manifest(folder, "judge", result=asdict(result))
    page = page_of(run, quick=True)
    for cell in ("lm_eval-gsm8k", "lm_eval 0.4.13", "exact_match,strict 0.2500 ± 0.0125", "–", "8"):
        assert f"<td>{cell}</td>" in page
    assert "<b>lm_eval-gsm8k, lm_eval 0.4.13</b>: a try-out</p>" in page


def test_a_figure_of_one_prompt_has_no_error(run, undrawn):
    write_evaluation(run, (0.6, 0.75, math.nan, 100.0))
    page = page_of(run, quick=True)
    assert "<td>75.0%</td>" in page and "nan%" not in page
    alone = Benchmarked("mt_bench", "DPO", "x", 6.0, True, math.nan, None, 1, 1, 0, 0, 1.0, 0)
    assert (in_words(alone), with_error(0.5, None)) == ("grade 6.00 (judge x)", "50.0%")
    lost = Benchmarked("alpaca_eval2", "DPO", "x", 0.25, False, 0.125, 0.0, 4, 4, 0, 0, 1.0, 0)
    assert in_words(lost) == "win rate 25.0% ± 12.5%, length-controlled 0.0% (judge x)"


def test_a_broken_training_is_named(run):
    (run.round_dir(1) / "curves.jsonl").write_text('{"step": 10, "loss": NaN}\n')
    assert "The training loss of round 1 is not a finite number" in verdict(collect(run)).details[0]
    assert "Training: loss" in page_of(run, quick=True)


def test_warnings_and_what_is_missing_stand_on_the_first_screen(run, undrawn):
    write_manifest(run, 1, "train", 5, 5, {}, warnings=["the <median>\x1b[0m is small"])
    folder = run.round_dir(2)
    write_samples(run, 2, TABLE)
    (folder / "score.manifest.json").replace(folder / "score.started.json")
    files.write_json(folder / "pair.failed.json", {"error": "no prompt has <4> responses\nand more"})
    assert collect(run).warnings() == [("round 1, train", "the <median>\x1b[0m is small")]
    assert collect(run).missing() == [
        "round 2: score was begun and is not done",
        "round 2: pair failed: no prompt has <4> responses",
        "round 2: train is to do",
        "evaluation: evaluate is to do",
    ]
    page = page_of(run, quick=True)
    assert "round 1, train</b>: the &lt;median&gt;␛[0m is small" in page
    assert "round 2: pair failed: no prompt has &lt;4&gt; responses" in page


def test_a_model_that_was_not_judged_is_missing(run):
    run.recipe.rounds = 1
    write_evaluation(run)
    assert collect(run).missing() == ["not judged yet: round-1"]


def test_files_that_are_gone_are_named_and_the_rest_is_shown(run, undrawn):
    for name in ("pairs.jsonl", "curves.jsonl", "scores/part-00000.jsonl"):
        (run.round_dir(1) / name).unlink()
    assert [line for line in collect(run).missing() if "gone" in line] == [
        f"round 1: {name} is gone; what it would show is left out"
        for name in ("curves.jsonl", "pairs.jsonl", "scores")
    ]
    assert "Rounds at a glance" in page_of(run)


def test_a_run_without_rounds_is_one_line(fake_run):
    refused = run_dice("report", str(fake_run.path))
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert "no round has begun" in line
    assert not (fake_run.path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "line", "says"),
    [
        ("curves.jsonl", "{", "curves.jsonl:1: not JSON"),
        ("curves.jsonl", "5", "curves.jsonl:1: not an entry of the trainer's log"),
        ("curves.jsonl", "\xff", "curves.jsonl:1: not JSON .*utf-8"),
        ("curves.jsonl", '{"step": 1, "loss": null}', "curves.jsonl:1: loss is null, not a number"),
        ("curves.jsonl", '{"step": 1, "eval_loss": "0.7"}', "curves.jsonl:1: eval_loss is '0.7', not a"),
        ("alpha.jsonl", "", "alpha.jsonl: empty"),
        ("train.manifest.json", '{"seconds": 1}', "train.manifest.json: not as it was written"),
        ("alpha.jsonl", '{"alpha": 1}', "alpha.jsonl:1: not a Step row"),
        ("scores/part-00000.jsonl", "{}", "part-00000.jsonl:1: not a Score row"),
    ],
)
def test_a_damaged_file_is_one_line_and_the_last_report_stays(run, undrawn, name, line, says):
    (run.path / "report.html").write_text("the report before")
    (run.round_dir(1) / name).write_text(line and line + "\n", encoding="latin-1")
    with pytest.raises(BadInput, match=says):
        write_report(run, quick=True)
    assert (run.path / "report.html").read_text() == "the report before"


def test_pairs_of_responses_that_were_not_scored_are_refused(run):
    path = run.round_dir(1) / "pairs.jsonl"
    path.write_text(path.read_text().replace('"chosen_sample":1', '"chosen_sample":7'))
    with pytest.raises(BadInput, match="pairs.jsonl:1: a pair of responses that were not scored"):
        collect(run)


class Tags(HTMLParser):
    """Elements of a page, what they refer to, and their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.names, self.ids, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href")]


def test_texts_of_models_stay_text(fake_run, undrawn):
    write_samples(fake_run, 1, {NASTY: [("x" + NASTY, 2.0), ("y" + NASTY, -2.0)]})
    write_pairs(fake_run, 1)
    page = page_of(fake_run, quick=True)
    tags = Tags()
    tags.feed(page)
    assert tags.names.count("script") == 2 and "b" in tags.names  # the data and our own script
    assert "alert(1)</script>" not in page and "\x1b" not in page and "\u202e" not in page
    data = page.split('id="data">')[1].split("</script>")[0]
    (shown,) = json.loads(data)[0]["pairs"]
    assert shown["prompt"] == [["user", visible(NASTY)]]
    assert shown["chosen"]["tokens"] == ["x" + visible(NASTY)]
    assert (shown["margin"], shown["rank"]) == (4.0, 1)


def test_the_page_is_whole_by_itself(run):
    write_evaluation(run, (0.6, 0.55, 0.01, 110.0))
    page = page_of(run, quick=True)
    tags = Tags()
    tags.feed(page)
    assert tags.names.count("svg") == 3 + 9
    assert all(link.startswith("#") for link in tags.links)
    assert len(set(tags.ids)) == len(tags.ids)
    assert {link[1:] for link in tags.links} <= set(tags.ids)
    assert "#0" not in page.split("<main>")[1].split('id="recipe"')[0], "a colour that no theme changes"


def test_a_page_of_many_rounds_stays_under_5_mb_and_shows_plots_and_pairs(run, monkeypatch):
    svg = Markup(f"<svg>{'x' * 210_000}</svg>")  # what nine plots take at most
    monkeypatch.setattr("dice.tools.report.figures.of_round", lambda done: [Plot(f"plot {done.t}", "", svg)])
    run.recipe.rounds = 30
    for t in range(2, 31):
        shutil.copytree(run.round_dir(1), run.round_dir(t))
    page = page_of(run, quick=True)
    assert len(page.encode()) < 5_000_000
    drawn = [t for t in range(1, 31) if f">plot {t}<" in page]
    assert drawn == [*range(1, 7), *range(26, 31)] and page.count("Its plots are left out") == 19
    assert page.count('{"id":') == 60


@pytest.mark.slow
def test_the_same_run_gives_the_same_bytes(run):
    assert page_of(run, quick=True) == page_of(run, quick=True)


def test_nothing_heavy_is_imported_before_there_is_something_to_draw():
    heavy = ["torch", "transformers", "llamafactory", "matplotlib", "jinja2"]
    code = f"import sys, dice.tools.report; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
