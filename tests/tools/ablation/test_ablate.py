"""The grid, what its runs share, its statistics, and the command that runs it."""

import json
import math

import pytest
from commands import run_script
from fake_world import write_manifest

from dice.errors import BadInput
from dice.run import files
from dice.run.run import create_run
from dice.stages.order import stages_of
from dice.tools.ablation import grid, table
from dice.tools.ablation.claims import Verdict, verdicts
from dice.tools.ablation.forecast import _stages, forecast
from dice.tools.ablation.results import Mean, Setting, collect, difference, settings

pytestmark = pytest.mark.slow


def make(fake_settings, *words):
    return grid.make_grid("tiny", [*fake_settings, *words])


@pytest.mark.slow
def test_every_run_differs_from_the_recipe_in_one_thing(fake_settings):
    made = make(fake_settings)
    assert len(made.cells) == 27
    first = {cell.name: cell for cell in made.cells if cell.seed == 1}
    assert list(first) == [
        "dice", "reward-reward_model", "reward-judge", "reward-random", "balance-off",
        "gamma-0", "gamma-0.25", "gamma-0.75", "gamma-1",
    ]  # fmt: skip
    center = first["dice"]
    assert center.values == (("reward", "implicit"), ("balance", "on"), ("gamma", "0.5"))
    assert (center.recipe.rounds, center.recipe.seed, center.recipe.run) == (3, 1, "ablate-tiny-dice-seed-1")
    other = first["gamma-0.25"]
    assert (other.recipe.rounds, other.recipe.replay.gamma, other.recipe.pair.alpha) == (1, 0.25, "auto")
    assert other.recipe.run == "ablate-tiny-gamma-0.25-seed-1"
    assert made.folder.name == "ablate-tiny"


def test_the_recipe_as_overridden_is_the_center(fake_settings):
    made = make(fake_settings, "replay.gamma=0.25", "run=mine", "seeds=7", "axes=gamma", "rounds=2")
    names = [cell.recipe.run for cell in made.cells]
    assert names == [
        f"mine-{cell}-seed-7" for cell in ("dice", "gamma-0", "gamma-0.5", "gamma-0.75", "gamma-1")
    ]
    assert made.cells[0].values == (("gamma", "0.25"),) and made.cells[0].recipe.rounds == 2


def test_single_values_of_an_axis(fake_settings):
    """Runs, rows and claims of those values alone, and of the recipe's own."""
    made = make(fake_settings, "seeds=1", "axes=reward:random,gamma:1,gamma:0,balance", "rounds=1")
    assert [cell.name for cell in made.cells] == [
        "dice", "reward-random", "gamma-0", "gamma-1", "balance-off",
    ]  # fmt: skip
    rows = [f"{row.axis} {row.value}" for row in settings(made)[:-2]]
    own = ["reward implicit", "reward random", "gamma 0", "gamma 0.5", "gamma 1"]
    assert rows == [*own, "balance on", "balance off"]
    told = [verdict.measured for verdict in verdicts({}, made)]
    assert len(told) == 5 and not any("judge" in words for words in told)


def test_the_runs_register_no_pairs(fake_settings):
    """They would all want the same name."""
    assert {cell.recipe.register for cell in make(fake_settings, "register=mine", "seeds=1").cells} == {None}


@pytest.mark.parametrize(
    "words, message",
    [
        (["axes=gamma,size"], "axes: unknown axis 'size'; there are reward, balance, gamma"),
        (["axes=gamma:0.3"], "axes: gamma has no value '0.3'; there are 0, 0.25, 0.5, 0.75, 1"),
        (["axes=gamma:0,gamma:0"], "axes: gamma:0 is there more than once"),
        (["seeds=1,two"], "seeds: 'two' is no number"),
        (["seeds=\N{SUPERSCRIPT TWO}"], "seeds: .* is no number"),
        (["seeds=1,2,01"], "seeds: 1 is there more than once"),
        (["axes=gamma,gamma"], "axes: gamma is there more than once"),
        (["seed=3"], "use seeds=1,2,3"),
        (["axis_rounds=4"], "axis_rounds is 4; it must be between 1 and rounds, 3"),
        (["evaluate.prompts=null", "evaluate.judge=null"], "this recipe has no evaluate.judge"),
        (["rewards=all"], "unknown key 'rewards'"),
    ],
)
def test_grids_that_make_no_sense_are_refused(fake_settings, words, message):
    with pytest.raises(BadInput, match=message):
        make(fake_settings, *words)


def test_what_runs_have_in_common_is_known_beforehand(fake_settings):
    cells = make(fake_settings, "seeds=1").cells
    keys = {cell.name: {stage: key for stage, t, key in _stages(cell) if t < 2} for cell in cells}
    same = {stage: [name for name in keys if keys[name][stage] == key] for stage, key in keys["dice"].items()}
    assert len(same["generate"]) == 9
    assert same["score"] == ["dice", "balance-off", "gamma-0", "gamma-0.25", "gamma-0.75", "gamma-1"]
    assert same["pair"] == same["train"] == same["evaluate"] == ["dice"]


def test_means_and_intervals():
    """1, 2, 3: variance 1, error 1 / sqrt(3); Student's t of 2 degrees of freedom at 97.5% is 4.3027."""
    found = Mean.of([1, 2, 3])
    assert (found.mean, found.count) == (2, 3)
    assert found.error == pytest.approx(0.57735, abs=1e-5)
    assert found.margin == pytest.approx(4.30265 * 0.57735, abs=1e-4)
    alone = Mean.of([5])
    assert alone.mean == 5 and math.isnan(alone.error) and math.isnan(alone.margin)
    assert Mean.of([]).count == 0


@pytest.mark.parametrize(
    "values, says",
    [
        ([0.03, 0.04, 0.05], "agrees"),
        ([-0.03, -0.04, -0.05], "disagrees"),
        ([0.01, 0.02, 0.09], "can't tell"),
        ([0.5], "can't tell"),
        ([], "not run"),
    ],
)
def test_verdicts(values, says):
    assert Verdict("a claim", "win rate", "win_rate", Mean.of(values)).says == says


def test_differences_are_taken_seed_by_seed():
    first, second = Setting("gamma", "0.5", 1), Setting("gamma", "0", 1)
    figures = {
        first: {1: {"quality": 0.6}, 2: {"quality": 0.9}, 3: {"quality": 0.7}},
        second: {3: {"quality": 0.4}, 1: {"quality": 0.5}},
    }
    found = difference(figures, first, second, "quality")
    assert (found.count, found.mean) == (2, pytest.approx(0.2))


def pretend(cell, **rates):
    """A cell's run, finished as far as manifests say, evaluated with these win rates by round."""
    run = create_run(cell.recipe)
    for t in range(1, cell.recipe.rounds + 1):
        files.write_text(run.round_dir(t) / "prompts.jsonl", "")
        files.write_text(run.round_dir(t) / "dataset" / "mixed.json", "[]")
    plain = {"quality": 0.5, "win_rate_error": 0.01, "mean_chars": 40.0}
    results = [{"model": "SFT", "win_rate": 0.4, **plain}, {"model": "DPO", "win_rate": None, **plain}]
    results += [{"model": name.replace("_", "-"), "win_rate": rate, **plain} for name, rate in rates.items()]
    for stage, t in stages_of(run):
        basis = {"inputs": stage.inputs(run, t), "recipe": stage.settings(run, t)}
        more = {"results": results} if stage.name == "evaluate" else {}
        write_manifest(stage.folder(run, t), stage.name, **basis, **more)


def test_the_table_has_what_is_done_and_says_what_is_not(fake_settings):
    made = make(fake_settings, "seeds=1,2", "axes=balance", "rounds=3")
    for cell in made.cells:
        if cell.name == "dice":
            step = 0.002 * cell.seed
            pretend(cell, round_1=0.55 + step, round_2=0.57 + step, round_3=0.58 + step)
    assert [cell.is_done for cell in made.cells] == [True, False, True, False]
    figures = collect(made)
    text = table.markdown(figures, made, "the command")
    assert "| balance | on | 55.3% ± 0.1% | 0.500 ± 0.000 | 40.0 ± 0.0 | 2 |" in text
    assert "| balance | off | not run | not run | not run | 0 |" in text
    assert "| rounds | the start | - | 0.500 ± 0.000 | 40.0 ± 0.0 | 2 |" in text
    assert "| rounds | 3 | 58.3% ± 0.1% |" in text
    told = {verdict.claim: verdict.says for verdict in verdicts(figures, made)}
    assert told["Length balance keeps answers from growing"] == "not run"
    assert told["Round 1 helps"] == told["Round 2 helps"] == "agrees"
    assert told["Round 3 helps less than round 2"] == "agrees"  # 2 and 1 points, at both seeds


ROUNDS = {"round_1": 0.5, "round_2": 0.5, "round_3": 0.5}


@pytest.fixture
def first(fake_settings):
    """The first cell of a grid, looked at anew."""
    return lambda *words: make(fake_settings, "seeds=1", "axes=balance", *words).cells[0]


@pytest.mark.slow
def test_a_run_by_another_recipe_is_not_done(first):
    pretend(first(), **ROUNDS)
    assert first().is_done and not first("generate.top_p=0.5").is_done
    create_run(first("generate.top_p=0.5").recipe)  # as `start --force` does, and is killed then
    assert not first("generate.top_p=0.5").is_done and not first().is_done


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "round-2" / "train.manifest.json").unlink(),
        lambda path: files.write_text(path / "round-3" / "responses" / "part-00000.jsonl", "other\n"),
        lambda path: files.write_text(path / "round-1" / "pair.manifest.json", "{}"),
        lambda path: write_manifest(path / "evaluate", "evaluate"),
    ],
    ids=["a missing model", "other responses", "a spoiled manifest", "an evaluation of something else"],
)
def test_a_run_that_no_longer_holds_is_not_done(first, fake_settings, spoil):
    pretend(first(), **ROUNDS)
    spoil(first().run.path)
    (row, *_) = forecast(make(fake_settings, "seeds=1", "axes=balance"))
    assert not row.cell.is_done


@pytest.mark.slow
def test_a_run_that_was_ended_in_a_later_round_leaves_a_gap(first, fake_settings):
    pretend(first("rounds=1"), round_1=0.6)
    create_run(first("rounds=2").recipe)
    made = make(fake_settings, "seeds=1", "axes=balance", "rounds=2")
    assert first("rounds=2").is_done is False and not collect(made)
    pretend(first("rounds=2"), round_1=0.6)  # evaluated before round 2 was trained
    assert not first("rounds=2").is_done


@pytest.mark.slow
def test_the_command_runs_the_grid_and_what_is_done_only_once(fake_settings, tmp_path):
    words = [*fake_settings, "seeds=1,2", "axes=balance", "rounds=1"]
    command = ["bash", "scripts/run_dice/ablate.sh", "tiny", *words]
    listed = run_script(*command, "--dry")
    assert listed.returncode == 0 and not (tmp_path / "results").exists()
    assert "ablate-tiny-balance-off-seed-2" in listed.stdout and "shares generate 1, score 1" in listed.stdout

    result = run_script(*command)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("as in ablate-tiny-dice-seed-") == 4  # of two seeds, generate and score
    folder = tmp_path / "results" / "ablate-tiny"
    assert {path.name for path in folder.iterdir()} == {"ablation.md", "ablation.svg", "ablation.json"}
    rows = json.loads((folder / "ablation.json").read_text())
    assert {(row["axis"], row["value"], row["seed"]) for row in rows} == {
        (axis, value, seed)
        for seed in (1, 2)
        for axis, value in (("balance", "on"), ("balance", "off"), ("rounds", "0"), ("rounds", "1"))
    }
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    again = run_script(*command)
    assert again.returncode == 0 and "round 1\n" not in again.stdout
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.slow
def test_a_run_that_fails_leaves_a_gap(fake_settings, tmp_path):
    """Without a server, the judge can't be asked; everything else is run, and the status says so."""
    words = [*fake_settings, "seeds=1", "axes=reward", "rounds=1", "score.judge=some-model"]
    nowhere = dict.fromkeys(("OPENAI_BASE_URL", "OPENAI_API_KEY"), "")
    result = run_script("bash", "scripts/run_dice/ablate.sh", "tiny", *words, **nowhere)
    assert result.returncode == 1
    assert "failed: run=ablate-tiny-reward-judge-seed-1" in result.stderr
    assert "| reward | judge | not run | not run | not run | 0 |" in result.stdout
    assert "| reward | random | 5" in result.stdout or "| reward | random | 4" in result.stdout
    assert "not done: ablate-tiny-reward-judge-seed-1" in result.stdout
