"""Two runs in one report: what is set beside each other, and what can't be."""

import fake_world
import pytest
from reported import write_evaluation, write_manifest, write_round

from dice.__main__ import ForUsers
from dice.errors import BadInput
from dice.recipe import load
from dice.run.run import create_run
from dice.stages import evaluate
from dice.tools.report.beside import beside
from dice.tools.report.collect import collect


@pytest.fixture
def two(tmp_path, monkeypatch):
    """Two runs with a round each, judged alike; the other one has another seed."""
    monkeypatch.setattr("dice.tools.report.beside._plots", lambda *_: [])
    data = fake_world.make_data(tmp_path / "data")
    runs = []
    for name in ("ours", "theirs"):
        settings = [*fake_world.make_settings(data, tmp_path), f"run={name}", f"seed={len(runs)}"]
        runs.append(create_run(load.load_recipe("tiny", settings)))
        write_round(runs[-1])
        judge(runs[-1])
    return runs


def judge(run, **inputs):
    write_evaluation(run, (0.6, 0.55, 0.01, 110.0))
    folder = evaluate.STAGE.folder(run, 0)
    known = {"judge": "a", "prompts": "b", "DPO": "c", **inputs}
    results = [vars(result) for result in collect(run).results]
    fake_world.write_manifest(folder, "evaluate", inputs=known, results=results)


def test_figures_of_two_runs_stand_beside_each_other(two):
    ours, theirs = two
    write_manifest(theirs, 1, "generate", 2, 9, {}, cut_off=0)
    write_round(theirs, 2)
    found = beside(collect(ours), collect(theirs))
    assert (found.names, found.columns) == (("ours", "theirs"), ["start", "round 1", "round 2"])
    assert found.figures["Quality"] == (["0.500", "0.600", "–"],) * 2
    assert found.figures["Win rate against DPO"] == (["–", "55.0% ± 1.0%", "–"],) * 2
    assert found.figures["Responses sampled"] == (["–", "8", "–"], ["–", "9", "8"])
    assert found.recipes == ["seed 0 -> 1"] and found.notes == []


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (
            {"judge": "x"},
            "They were judged with different judges: qualities and win rates can't be compared.",
        ),
        ({"prompts": "x"}, "They were judged with different held-out prompts"),
        ({"DPO": "x"}, "They start from different policies: a win rate is against each one's own start."),
    ],
)
def test_what_cannot_be_compared_is_said_and_left_out(two, inputs, says):
    ours, theirs = two
    judge(theirs, **inputs)
    found = beside(collect(ours), collect(theirs))
    assert found.notes[0].startswith(says)
    assert ("Quality" in found.figures) == ("DPO" in inputs)


def test_a_run_that_is_not_judged_has_its_other_figures(two):
    ours, theirs = two
    (evaluate.STAGE.folder(theirs, 0) / "evaluate.manifest.json").unlink()
    found = beside(collect(ours), collect(theirs))
    assert found.notes == ["Not both runs are judged."] and "Mean reward, nats" in found.figures


def test_two_runs_with_nothing_in_common_are_refused(two):
    ours, theirs = two
    judge(theirs, judge="x")
    theirs.recipe.score.reward = "judge"
    found = "ours and .*theirs can't be compared. They were judged with .* Rewards are in nats and in grades"
    with pytest.raises(BadInput, match=found):
        beside(collect(ours), collect(theirs))


def test_a_run_beside_itself_and_beside_one_without_rounds(two):
    ours, theirs = two
    with pytest.raises(BadInput, match="that is the run itself"):
        beside(collect(ours), collect(ours))
    (theirs.path / "round-1").rename(theirs.path / "elsewhere")
    with pytest.raises(BadInput, match="theirs: no round has begun"):
        ForUsers().report(str(ours.path), str(theirs.path), quick=True)
    assert not (ours.path / "report.html").exists()
