"""Stage 1.3 on small rounds written by hand."""

import json

import pytest
from rounds import pairs_of

from dice.errors import BadInput
from dice.run import files
from dice.stages import pair
from dice.stages.order import execute


def test_best_against_worst_at_alpha_zero(round_of):
    run = round_of({"q": [("mid", 1.0), ("best", 2.0), ("worst", -1.0)]}, alpha=0, min_samples=2)
    manifest = execute(pair.STAGE, run, 1)
    (made,) = pairs_of(run)
    assert (made["chosen"], made["rejected"]) == ("best", "worst")
    assert (made["chosen_sample"], made["rejected_sample"]) == (1, 2)
    assert (made["chosen_reward"], made["rejected_reward"]) == (2.0, -1.0)
    assert manifest.figures["alpha"] == 0 and manifest.figures["length_difference"] == -1.0


def test_alpha_is_subtracted_per_character(round_of):
    """Rewards 3 and 2 of 8 and 2 characters: at alpha 0.5 they become -1 and 1."""
    run = round_of({"q": [("longlong", 3.0), ("hi", 2.0)]}, alpha=0.5, min_samples=2)
    execute(pair.STAGE, run, 1)
    (made,) = pairs_of(run)
    assert (made["chosen"], made["chosen_shaped"], made["rejected_shaped"]) == ("hi", 1.0, -1.0)


def test_what_can_not_become_a_pair_is_counted(round_of):
    run = round_of(
        {
            "fine": [("good", 1.0), ("bad", 0.0)],
            "same reward": [("a", 1.0), ("a long one", 1.0)],
            "same text": [("one", 1.0), ("one", 0.5)],
            "too few": [("one", 1.0), None],
            "unanswered, which stage 1.1 has counted": [None, None],
        },
        alpha=0,
        min_samples=2,
    )
    manifest = execute(pair.STAGE, run, 1)
    assert len(pairs_of(run)) == 1
    assert manifest.dropped == {
        "prompts with under 2 scored responses": 1,
        "prompts whose rewards are all equal": 1,
        "pairs with a zero margin": 0,
        "pairs with equal rewards": 0,
        "pairs with identical texts": 1,
    }


def test_prompts_whose_rewards_are_all_equal_do_not_move_alpha(round_of):
    """Of the others: +4 characters below alpha 0.5, 0 up to 1, -4 above."""
    table = {"q": [("a" * 10, 3.0), ("b" * 6, 1.0)], "r": [("a" * 9, 4.0), ("b" * 5, 0.0)]}
    alike = {f"alike {n}": [("a" * 90, float(n)), ("b", float(n))] for n in range(5)}
    run = round_of(table | alike, alpha="auto", min_samples=2)
    manifest = execute(pair.STAGE, run, 1)
    assert manifest.figures["alpha"] == 0.75 and manifest.dropped["prompts whose rewards are all equal"] == 5
    assert [pair["chosen_reward"] for pair in pairs_of(run)] == [1.0, 4.0]


def test_where_all_prompts_rewards_are_equal_nothing_is_paired(round_of):
    run = round_of({"q": [("a", 2.0), ("bbb", 2.0)]}, alpha="auto", min_samples=2)
    with pytest.raises(BadInput, match="the same reward [(]1 prompt[)], so none") as refused:
        execute(pair.STAGE, run, 1)
    assert "\n" not in str(refused.value) and not (run.round_dir(1) / "pairs.jsonl").exists()


def test_ties_go_to_the_lower_sample(round_of):
    run = round_of({"q": [("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 0.0)]}, alpha=0, min_samples=2)
    execute(pair.STAGE, run, 1)
    assert (pairs_of(run)[0]["chosen"], pairs_of(run)[0]["rejected"]) == ("a", "c")


def test_replay_is_mixed_in_and_exported(round_of, data_dir):
    table = {f"q{i}": [("good", 1.0), ("bad", 0.0)] for i in range(6)}
    run = round_of(table, alpha=0, min_samples=2, gamma=0.5)
    manifest = execute(pair.STAGE, run, 1)
    # 20 offline pairs, 6 generated: min(10, 6) = 6 generated and 6 offline.
    assert (manifest.figures["pairs"], manifest.figures["generated"], manifest.figures["offline"]) == (
        6,
        6,
        6,
    )
    dataset = run.round_dir(1) / "dataset"
    assert len(json.loads((dataset / "dataset.json").read_text())) == 6
    mixed = json.loads((dataset / "mixed.json").read_text())
    assert len(mixed) == 12
    assert mixed[0] == {
        "messages": [{"role": "user", "content": "q0"}],
        "chosen": {"role": "assistant", "content": "good"},
        "rejected": {"role": "assistant", "content": "bad"},
    }
    assert mixed[-1]["messages"][0]["content"].startswith("Explain ")


@pytest.mark.slow
def test_a_row_of_fifty_megabytes_is_a_row(round_of):
    huge = "ü" * 25_000_000
    run = round_of({"q": [("good", 1.0), (huge, 0.5), ("bad", 0.0)]}, alpha=0, min_samples=2)
    execute(pair.STAGE, run, 1)
    assert pairs_of(run)[0]["rejected"] == "bad"
    run = round_of({"q": [("good", 1.0), (huge, 5.0), ("bad", 0.0)]}, alpha=0, min_samples=2)
    execute(pair.STAGE, run, 1, force=True)
    assert pairs_of(run)[0]["chosen"] == huge


def test_half_a_character_never_becomes_a_pair(round_of):
    table = {"q": [("good", 1.0), ("bad", 0.0)], "r": [("good", 1.0), ("\ud83d", 0.0)]}
    manifest = execute(pair.STAGE, round_of(table, alpha=0, min_samples=2), 1)
    assert manifest.figures["pairs"] == 1
    assert manifest.dropped["pairs with half a character (an unpaired surrogate)"] == 1


def test_responses_may_come_in_any_order(round_of):
    table = {f"q{i}": [(f"good {i}", 1.0), (f"bad {i}", 0.0)] for i in range(5)}
    run = round_of(table, alpha=0, min_samples=2)
    execute(pair.STAGE, run, 1)
    expected = pairs_of(run)
    folder = run.round_dir(1) / "responses"
    lines = files.shard_path(folder, 0).read_bytes().splitlines(keepends=True)
    files.write_text(files.shard_path(folder, 0), lines[:3:-1])
    files.write_text(files.shard_path(folder, 1), lines[3::-1])
    execute(pair.STAGE, run, 1, force=True)
    assert pairs_of(run) == expected


def test_nothing_left_to_train_on(round_of):
    run = round_of({"q": [("one", 1.0), ("one", 0.0)]}, alpha=0, min_samples=2)
    with pytest.raises(BadInput, match="nothing to train on"):
        execute(pair.STAGE, run, 1)


def test_what_happened_is_printed_and_kept(round_of, capsys):
    """Three responses of four the same; rewards fall with length, so alpha 0 is already too much."""
    table = {f"q{i}": [("aaaa", 3.0), ("aaaa", 2.0), ("aaaa", 2.5), ("bbbbbbbb", 1.0)] for i in range(4)}
    manifest = execute(pair.STAGE, round_of(table, alpha=0, min_samples=2), 1)
    # 2 of 4 responses of a prompt repeat one that is there already.
    assert manifest.figures["duplicate_share"] == 0.5 and manifest.figures["cut_off_share"] == 0
    assert manifest.figures["margins"]["50%"] == 2.0 and manifest.figures["length_difference"] == -4.0
    # Centred rewards 7/8, -1/8, 3/8, -9/8; centred lengths -1, -1, -1, 3: -36/8 of sqrt(140/64 * 12).
    assert manifest.figures["correlation"] == pytest.approx(-4.5 / (140 / 64 * 12) ** 0.5)
    out = capsys.readouterr().out
    assert "margins 2.0 to 2.0 nats, median 2.0, reward-length correlation -0.88 -> -0.88" in out
    assert "50% duplicates, 0% cut off" in out and "!" not in out and not manifest.warnings


def test_a_degenerate_round_is_warned_of(round_of, capsys):
    table = {f"q{i}": [("same", 1.0), ("same", 0.9), ("same", 0.95)] for i in range(3)}
    table["q"] = [("one", 0.5), ("two", 0.0), ("two", 0.3)]
    manifest = execute(pair.STAGE, round_of(table, alpha=0, min_samples=2), 1)
    first, second = manifest.warnings
    assert first.startswith("58% of the responses repeat another one")  # 2 + 2 + 2 + 1 of 12
    assert second.startswith("only 1 of 4 prompts became a pair")
    assert capsys.readouterr().out.count("! ") == 2


def test_prompts_without_enough_scores_count_among_those_without_a_pair(round_of):
    table = {f"q{n}": [(f"{n} is it", 1.0), None] for n in range(4)} | {"q": [("good", 1.0), ("bad", 0.0)]}
    manifest = execute(pair.STAGE, round_of(table, alpha=0, min_samples=2), 1)
    assert any(line.startswith("only 1 of 5 prompts became a pair") for line in manifest.warnings)


def test_a_zero_that_can_not_be_reached_is_said_loudly(round_of, capsys):
    """Rewards 3 and 1 of 10 and 6 characters: equal at alpha 0.5, where the longer one gives way."""
    run = round_of({"q": [("a" * 10, 3.0), ("b" * 6, 1.0)]}, alpha="auto", min_samples=2)
    manifest = execute(pair.STAGE, run, 1)
    (note,) = manifest.warnings
    assert note == (
        "no alpha balances the lengths: +4.0 chars remain at best, for at alpha 0.5 the mean difference "
        "steps from +4.0 over zero to -4.0"
    )
    assert f"! {' ' * 10}{note}" in capsys.readouterr().out


def test_the_curve_is_saved(round_of):
    """Two prompts that cross at alpha 0.5 and 1: +4, 0 and -4 characters on average."""
    table = {"q": [("a" * 10, 3.0), ("b" * 6, 1.0)], "r": [("a" * 9, 4.0), ("b" * 5, 0.0)]}
    run = round_of(table, alpha="auto", min_samples=2)
    assert execute(pair.STAGE, run, 1).figures["alpha"] == 0.75
    curve = [json.loads(line) for line in (run.round_dir(1) / "alpha.jsonl").read_text().splitlines()]
    assert curve == [
        {"alpha": 0.25, "length_difference": 4.0},
        {"alpha": 0.75, "length_difference": 0.0},
        {"alpha": 1.25, "length_difference": -4.0},
    ]


def test_the_grid_is_a_choice(round_of):
    """Equal at alpha 2 / 4 = 0.5, a point of the grid: a tie, so the same sample is best and worst."""
    table = {"q": [("a" * 10, 3.0), ("b" * 6, 1.0)], "r": [("a" * 9, 4.0), ("b" * 5, 0.0)]}
    manifest = execute(pair.STAGE, round_of(table, alpha="grid", min_samples=2), 1)
    # At 0.5 the first prompt counts 0 and the second +4: 2 on average. From 0.501 on they cancel out.
    assert manifest.figures["alpha"] == pytest.approx(0.501)
    assert manifest.figures["length_difference"] == 0


def test_trls_format(round_of):
    table = {f"q{i}": [("good", 1.0), ("bad", 0.0)] for i in range(6)}
    run = round_of(table, alpha=0, min_samples=2, gamma=0.5, trl=True)
    execute(pair.STAGE, run, 1)
    dataset = run.round_dir(1) / "dataset"
    mixed = json.loads((dataset / "trl" / "mixed.json").read_text())
    assert len(mixed) == len(json.loads((dataset / "mixed.json").read_text())) == 12
    assert mixed[0] == {
        "prompt": [{"role": "user", "content": "q0"}],
        "chosen": [{"role": "assistant", "content": "good"}],
        "rejected": [{"role": "assistant", "content": "bad"}],
    }


def test_an_offline_set_that_is_too_small(round_of, data_dir):
    table = {f"q{i}": [("good", 1.0), ("bad", 0.0)] for i in range(6)}
    run = round_of(table, alpha=0, min_samples=2, gamma=0.96)
    with pytest.raises(BadInput, match="has 20 prompts, too few for replay.gamma 0.96, .*; missing: 5"):
        execute(pair.STAGE, run, 1)
