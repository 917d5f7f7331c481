"""Rounds with prompts of their own, through the loop: sets of a list, and parts of one set."""

import json

import pytest
from commands import run_dice
from fake_world import interrupt
from loops import loop
from outcome import files_of

from dice.data.prompt_sets import read_round
from dice.errors import BadInput
from dice.inference import fake
from dice.launch import processes
from dice.launch.hardware import GPUS, Machine
from dice.recipe.load import load_recipe
from dice.run import files
from dice.run.rows import Prompt
from dice.stages import generate
from dice.stages.order import ROUND, execute
from dice.stages.prepare import start
from dice.tools import doctor, plan
from dice.tools.plan.budget import budget
from dice.tools.status import show_run


def add_set(data_dir, name, texts):
    (data_dir / f"{name}.json").write_text(json.dumps([{"instruction": text} for text in texts]))
    path = data_dir / "dataset_info.json"
    entry = {"file_name": f"{name}.json", "columns": {"prompt": "instruction"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: entry}))


@pytest.fixture
def with_sets(fake_settings, data_dir):
    """Overrides for a run with a set of three prompts for round 1 and one of five for round 2."""
    add_set(data_dir, "first", ["A?", "B?", "C?"])
    add_set(data_dir, "second", ["D?", "E?", "F?", "G?", "H?"])
    return [*fake_settings, "prompts=[first,second]"]


def asked(run, t):
    rows = files.read_rows(run.round_dir(t) / "prompts.jsonl", Prompt)
    return [prompt.messages[-1]["content"] for prompt in rows]


@pytest.fixture
def go(workers_here, monkeypatch):
    """What iter.sh does of a run's rounds, in this process."""
    monkeypatch.setattr(processes, "run_logged", lambda command, *_: fake.make_policy(*command[3:]))

    def run_all(settings):
        run = start("tiny", settings)
        for t in range(1, run.recipe.rounds + 1):
            for stage in ROUND:
                execute(stage, run, t)
        return run

    return run_all


def test_rounds_share_out_a_set_and_go_on(fake_settings, go, capsys):
    """Disjoint, whatever was killed, and the same however many rounds there are."""
    settings = [*fake_settings, "prompts_per_round=3"]
    run = go([*settings, "rounds=2"])
    first, second = asked(run, 1), asked(run, 2)
    assert (len(first), len(second)) == (3, 3) and not {*first} & {*second}
    told = capsys.readouterr().out
    assert told.count("24 responses to 3 prompts") == 2
    assert "dropped: 7 prompts that are not of this round" in told
    before = files_of(run.path)
    interrupt(generate.STAGE, run, 2)
    (run.round_dir(2) / "prompts.jsonl").unlink()
    execute(generate.STAGE, run, 2)  # goes on where it stopped
    assert files_of(run.path) == before
    capsys.readouterr()
    more = go([*settings, "rounds=3"])
    assert capsys.readouterr().out.count("done before") == 8
    assert (asked(more, 1), asked(more, 2)) == (first, second)
    assert len({*first, *second, *asked(more, 3)}) == 9
    show_run(more)
    assert capsys.readouterr().out.count("to 3 prompts") == 3


def test_each_round_asks_its_own_set_and_a_run_of_one_set_goes_on(with_sets, go, capsys):
    """The first round of a plain name is the first round of a list that begins with it."""
    plain = go([*with_sets, "prompts=first", "rounds=1"])
    before = {name: content for name, content in files_of(plain.path).items() if name != "recipe.yaml"}
    run = go(with_sets)
    assert 'prompts first -> ["first", "second"]' in capsys.readouterr().out
    assert (asked(run, 1), asked(run, 2)) == (["A?", "B?", "C?"], ["D?", "E?", "F?", "G?", "H?"])
    assert before.items() <= files_of(run.path).items()


def test_a_part_of_a_set_is_another_recipe(fake_settings, workers_here):
    settings = [*fake_settings, "rounds=1"]
    execute(generate.STAGE, start("tiny", settings), 1)
    with pytest.raises(BadInput, match="generate of round 1 would have to run again"):
        start("tiny", [*settings, "prompts_per_round=3"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompts=[first]"], "prompts has 1 name for 2 rounds; each must have one"),
        (["prompts=[first,first]"], "prompts has first twice; each round must have a set of its own"),
        (["prompts=[first,nope]"], "dataset_info.json: no data set 'nope'; there are: first, other"),
        (
            ["prompts=[first,second]", "prompts_per_round=1"],
            "prompts_per_round is 1, which shares out one set",
        ),
        (["prompts_per_round=-1"], "prompts_per_round is -1; it must be at least 1"),
        (["prompts_per_round=6"], "prompts: some_prompts has 10 prompts, but 2 rounds with 6 each"),
        (
            ["prompts=[second,other]"],
            "prompts: second and other share prompts, 'E?' for one; each round must",
        ),
    ],
)
def test_what_start_doctor_and_plan_refuse(with_sets, data_dir, tmp_path, words, told):
    add_set(data_dir, "other", ["I?", "E?"])
    settings = [word for word in with_sets if word != "prompts=[first,second]"]
    for refuse in (start, plan.show_plan, doctor.examine):
        with pytest.raises(BadInput) as caught:
            refuse("tiny", [*settings, *words])
        assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_a_command_that_refuses(with_sets):
    result = run_dice("plan", "tiny", *with_sets, "rounds=3")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "prompts has 2 names for 3 rounds; each must have one" in result.stderr


def test_the_plan_counts_each_rounds_prompts(with_sets, fake_settings, capsys):
    """8 responses to each of 3 prompts, then of 5; at most as many pairs, and half as many again offline."""
    plan.show_plan("tiny", with_sets)
    shown = " ".join(capsys.readouterr().out.split())
    assert "data 3 prompts (first), 5 prompts (second)" in shown
    assert "24 responses to 3 prompts" in shown and "40 responses to 5 prompts" in shown
    assert "3 pairs and 3 offline" in shown and "5 pairs and 5 offline" in shown
    plan.show_plan("tiny", [*fake_settings, "prompts_per_round=4"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.count("32 responses to 4 prompts") == 2 and "4 prompts (some_prompts) in each round" in shown
    settings = [*with_sets, "policy=some/pythia-410m", "generate.engine=hf"]
    planned = budget(load_recipe("tiny", settings), Machine(GPUS["A100-80G"], 1, ""))
    alone = [
        budget(load_recipe("tiny", [*settings, f"prompts={name}"]), planned.machine)
        for name in ("first", "second")
    ]
    for stage in ("generate", "score", "train"):
        assert [planned.at(t).cost(stage).seconds for t in (1, 2)] == [
            one.cost(stage).seconds for one in alone
        ]
    assert abs(planned.disk[1] - sum(one.disk[1] for one in alone) / 2) < 2


@pytest.mark.slow
def test_iter_with_parts_of_a_set(fake_settings, tmp_path):
    settings = [*fake_settings, "prompts_per_round=3", "report=true", "evaluate.prompts=null"]
    settings.append("evaluate.judge=null")
    first = loop(*settings, "rounds=1")
    assert first.returncode == 0, first.stderr
    more = loop(*settings, "rounds=2")
    assert more.returncode == 0 and more.stdout.count("done before") == 4
    page = (tmp_path / "results" / "tiny" / "report.html").read_text()
    assert page.count("7 prompts that are not of this round") == 2
    recipe = load_recipe("tiny", [*settings, "rounds=2"])
    found = [prompt.prompt_id for t in (1, 2) for prompt in read_round(recipe, t)[0]]
    assert len({*found}) == 6
