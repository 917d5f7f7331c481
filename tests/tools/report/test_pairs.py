"""The pairs that a report shows, token by token."""

import numpy as np
import pytest
from reported import (
    write_round,
)

from dice.errors import StageFailed
from dice.run import files
from dice.run.digests import file_digest
from dice.run.lock import locked
from dice.run.rows import Pair, Prompt, Response, TokenRewards
from dice.run.run import Run
from dice.stages import generate, pair, score
from dice.stages.order import execute
from dice.tools.report import pairs, tables
from dice.tools.report.collect import collect
from dice.tools.report.pairs import sample, spread
from dice.tools.report.samples import samples
from dice.tools.report.text import embedded
from dice.tools.report.tokens import token_rewards


@pytest.fixture
def run(fake_run):
    """Round 1 finished, round 2 not begun, nothing judged."""
    write_round(fake_run)
    return fake_run


def test_the_pairs_to_read_are_the_highest_the_lowest_and_random_ones():
    margins = np.array([3.0, 1.0, 5.0, 2.0, 4.0, 0.5])
    taken = spread(margins, 4, seed=0)
    assert taken[:2] == [2, 5] and len(set(taken)) == 4  # 5.0 and 0.5
    assert spread(margins, 4, seed=0) == taken
    assert sorted(spread(margins, 100, seed=0)) == [0, 1, 2, 3, 4, 5]
    assert spread(np.zeros(0), 4, seed=0) == []


def test_pairs_fit_into_the_room_that_is_left(run):
    whole = sample(run, collect(run).rounds[0], False, room=10_000)
    assert [shown["rank"] for shown in whole["pairs"]] == [1, 2] and whole["of"] == 2
    size = len(embedded(whole["pairs"][0]).encode())
    assert len(sample(run, collect(run).rounds[0], False, room=size)["pairs"]) == 1
    assert sample(run, collect(run).rounds[0], False, room=size - 1)["pairs"] == []


def test_a_pair_has_all_samples_of_its_prompt(run):
    """The best first; two of them were not scored, and long ones are cut so that all have room."""
    folder = run.round_dir(1)
    (first, second) = (prompt.prompt_id for prompt in files.read_rows(folder / "prompts.jsonl", Prompt))
    path = files.shard_path(folder / "responses", 1)
    files.write_rows(path, [Response(first, 3, "x" * 3000, 3000, 9, "length", 0)])
    found = samples(folder, {first}, alpha=0.5, unit="tokens")
    assert found == {
        first: [
            [1, 3.0, -0.5, 6, 7, "stop", "bbbbbb"],
            [0, 1.0, -1.5, 4, 5, "stop", "aaaa"],
            [2, -2.0, -3.5, 2, 3, "stop", "cc"],
            [3, None, None, 3000, 9, "length", "x" * 2000 + " … [1,000 more characters]"],
        ]
    }
    (shown, other) = sample(run, collect(run).rounds[0], False, room=10_000)["pairs"]
    assert (shown["id"], other["id"]) == (first, second)
    assert [row[:3] for row in shown["samples"]] == [
        [1, 3.0, 3.0],
        [0, 1.0, 1.0],
        [2, -2.0, -2.0],
        [3, None, None],
    ]
    files.remove(folder / "responses")
    assert sample(run, collect(run).rounds[0], False, room=10_000)["pairs"][0]["samples"] == []


@pytest.mark.slow
def test_every_token_gets_its_reward_once_and_it_is_kept(fake_run, monkeypatch):
    for stage in (generate.STAGE, score.STAGE, pair.STAGE):
        execute(stage, fake_run, 1)
    (shown, *_) = sample(fake_run, collect(fake_run).rounds[0], True, room=1_000_000)["pairs"]
    for side in (shown["chosen"], shown["rejected"]):
        assert sum(side["rewards"]) == pytest.approx(side["reward"], abs=0.005 * len(side["rewards"]))
        assert len(side["tokens"]) == side["chars"] + 1 and side["tokens"][-1] == "␀"  # the end of the turn

    monkeypatch.setattr("dice.tools.report.tokens.score_all", None)  # from here on nothing may be computed
    (again, *_) = sample(fake_run, collect(fake_run).rounds[0], True, room=1_000_000)["pairs"]
    assert again == shown
    path = fake_run.round_dir(1) / "pairs.jsonl"
    path.write_text(path.read_text().split("\n", 1)[1])  # without its first pair
    changed = sample(
        fake_run, collect(fake_run).rounds[0], False, room=1_000_000
    )  # other pairs: what was kept is not of them
    assert "rewards" not in changed["pairs"][0]["chosen"] and "python -m dice report" in changed["note"]


def test_rewards_that_are_a_mean_over_rounds_are_so_token_by_token(fake_run, monkeypatch):
    """Of a mean over two rounds a token has half of the difference; what was kept of a sum is not taken."""
    for stage in (generate.STAGE, score.STAGE, pair.STAGE):
        execute(stage, fake_run, 1)
    done = collect(fake_run).rounds[0]
    (whole, *_) = sample(fake_run, done, True, room=1_000_000)["pairs"]
    monkeypatch.setattr(Run, "averaged", lambda run, t: 2)
    (half, *_) = sample(fake_run, done, True, room=1_000_000)["pairs"]
    assert half["chosen"]["rewards"] == pytest.approx(
        [one / 2 for one in whole["chosen"]["rewards"]], abs=0.01
    )


def test_models_that_are_gone_leave_the_pairs_plain(run, monkeypatch):
    def fail(*_, **__):
        raise StageFailed("policy: no such model\nand more")

    monkeypatch.setattr("dice.tools.report.tokens.score_all", fail)
    shown = sample(run, collect(run).rounds[0], True, room=10_000)
    assert shown["note"] == "tokens are not shaded: policy: no such model"
    assert not (run.round_dir(1) / "report-tokens.json").exists()


def test_rewards_of_another_source_have_their_own_unit_and_no_tokens(run):
    run.recipe.score.reward = "judge"
    assert "Mean reward, grades" in tables.glance(collect(run))
    shown = sample(run, collect(run).rounds[0], True, room=10_000)
    assert shown["unit"] == "grades" and "only implicit rewards" in shown["note"]


def test_no_model_is_loaded_beside_a_stage_at_work(run, monkeypatch):
    monkeypatch.setattr("dice.run.lock.GRACE", 0.0)
    with locked(run.path):
        shown = sample(run, collect(run).rounds[0], True, room=10_000)
    assert shown["note"].endswith("is at work on this run")


def test_tokens_that_make_up_a_character_count_as_one(run):
    one = Pair("p", [{"role": "user", "content": "q"}], "é!", "no", 0, 1, 1.0, 0.0, 1.0, 0.0)
    kept = {"pairs": file_digest(run.round_dir(1) / "pairs.jsonl"), "rows": []}
    kept["rows"].append(
        {"prompt_id": "p", "sample": 0, "tokens": ["", "é", "!"], "token_rewards": [0.25, 0.5, -1.0]}
    )
    kept["rows"].append({"prompt_id": "p", "sample": 1, "tokens": [], "token_rewards": []})
    files.write_json(run.round_dir(1) / "report-tokens.json", kept)
    found, note = token_rewards(run, 1, [one], compute=False)
    assert found["p", 0] == TokenRewards("p", 0, ["", "é", "!"], [0.25, 0.5, -1.0]) and not note
    side = pairs._shown(one, 1, found)["chosen"]
    assert side["of_text"] == 2
    assert (side["tokens"], side["rewards"]) == (["é", "!"], [0.75, -1.0])
    assert pairs._shown(one, 1, found)["rejected"]["tokens"] == ["no"]
