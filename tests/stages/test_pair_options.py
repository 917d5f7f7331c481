"""Stage 1.3 with its options, on rounds of the fake engine and on rounds written by hand."""

import json
import math

import pytest
from rounds import pairs_of

from dice.data.prompts_and_preferences import read_preferences
from dice.errors import BadInput
from dice.inference import fake
from dice.recipe.load import load_recipe
from dice.run import files
from dice.run.rows import pair_key
from dice.run.run import create_run
from dice.stages import generate, pair, score, train
from dice.stages.order import execute


def mixed(run, t=1):
    return json.loads((run.round_dir(t) / "dataset" / "mixed.json").read_text())


def test_rewards_per_token_choose_other_pairs(fake_settings, workers_here):
    """r / tokens of every response, by the fake engine's own log-probs."""
    run = create_run(load_recipe("tiny", [*fake_settings, "score.normalize=tokens", "pair.alpha=0"]))
    for stage in (generate.STAGE, score.STAGE):
        execute(stage, run, 1)
    for path in files.shards(run.round_dir(1) / "scores"):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            total = row["logp_policy"] - row["logp_ref"]
            assert row["reward"] == total / row["n_tokens"] and row["n_tokens"] > 1
    manifest = execute(pair.STAGE, run, 1)
    made = pairs_of(run)
    assert manifest.rows_out and all(one["chosen_reward"] < 0.2 for one in made)


def test_offline_pairs_are_chosen_by_the_round_s_own_margins(round_of, workers_here):
    """Twenty offline pairs; the fake engine's log-probs of the chosen and of the rejected are worked out."""
    table = {f"q{n}": [("good", 1.0), ("bad", 0.0)] for n in range(6)}
    run = round_of(table, alpha=0, min_samples=2, gamma=0.5)
    run.recipe.replay.select = "top"
    execute(pair.STAGE, run, 1)
    replayed = [row["messages"][0]["content"] for row in mixed(run)[6:]]
    offline, _ = read_preferences(run.recipe.dataset_dir, "some_pairs")
    ours, theirs = fake.identity(run.policy(1)), fake.identity(run.reference(1))

    def reward(messages, text):
        ids = fake.Chat().encode(messages, text)
        return (fake.logps(ours, *ids) - fake.logps(theirs, *ids)).sum()

    margins = {
        one.messages[0]["content"]: reward(one.messages, one.chosen) - reward(one.messages, one.rejected)
        for one in offline
    }
    assert set(replayed) == set(sorted(margins, key=margins.get)[-6:])
    assert not (run.round_dir(1) / pair.RANKED).exists()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("pair.min_confidence=1", "pair.min_confidence is 1; it must be at most 0.999"),
        ("pair.rejected=best", "pair.rejected is 'best'; it must be 'worst', 'random' or 'sigma'"),
        ("replay.select=large", "replay.select is 'large'; it must be 'random', 'top' or 'bottom'"),
    ],
)
def test_values_that_there_are_none_of(fake_settings, word, message):
    with pytest.raises(BadInput, match=message):
        load_recipe("tiny", [*fake_settings, word])


@pytest.mark.parametrize("word", ["pair.min_confidence=0.9", "score.normalize=tokens"])
def test_only_implicit_rewards_are_in_nats(fake_settings, word):
    with pytest.raises(BadInput, match=f"{word.partition('=')[0]} is .*implicit"):
        load_recipe("tiny", [*fake_settings, word, "score.reward=random"])


@pytest.mark.parametrize("kind", ["confidence", "consistency"])
def test_how_likely_a_pair_is_to_be_ordered_wrongly(round_of, kind):
    """Margins of 3 and 1, of which the smaller is smoothed: 0, sigma(-0.1). Tau of 1/3 and none: 1/3, 0."""
    table = {"q": [("best", 2.0), ("middle", 1.0), ("worst", -1.0)], "r": [("up", 1.0), ("down", 0.0)]}
    run = round_of(table, alpha=0, min_samples=2, gamma=0.5)
    (part,) = files.shards(run.round_dir(1) / "scores")
    scores = [json.loads(line) for line in part.read_text().splitlines()]
    for row, before in zip(scores, (3.0, 4.0, 0.0), strict=False):  # of q alone
        row["reward_before"] = before
    part.write_text("".join(json.dumps(row) + "\n" for row in scores))
    run.recipe.train.smoothing = kind
    made = execute(pair.STAGE, run, 1)
    lines = (run.round_dir(1) / "dataset" / "smoothing.jsonl").read_text().splitlines()
    found = {row["pair_key"]: row["smoothing"] for row in map(json.loads, lines)}
    keys = [pair_key(one["messages"], one["chosen"], one["rejected"]) for one in pairs_of(run)]
    expected = {
        "confidence": [0.0, 1 / (1 + math.exp(0.1))],
        "consistency": [1 / 3, 0.0],
    }
    assert [found[key] for key in keys] == pytest.approx(expected[kind])
    assert made.figures["generated"] == 2 == len(found) < len(mixed(run))  # nothing of the offline ones
    assert train.round_config(run, 1)["smoothing"].endswith("round-1/dataset/smoothing.jsonl")
    assert "smoothing.jsonl" in train.STAGE.inputs(run, 1)


def test_round_1_has_no_rewards_of_before_to_smooth_by(round_of):
    run = round_of({"q": [("best", 2.0), ("worst", -1.0)]}, alpha=0, min_samples=2, gamma=0.5)
    run.recipe.train.smoothing = "consistency"
    execute(pair.STAGE, run, 1)
    assert train.round_config(run, 1).get("smoothing") is None
    assert [*train.STAGE.inputs(run, 1)] == ["mixed.json", "policy", "sampled_ids.jsonl"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.smoothing=consistency"], "is 'consistency'; it needs score.consistency=true"),
        (
            ["train.smoothing=confidence", "score.normalize=tokens"],
            "it needs score.reward=implicit and score.norm",
        ),
        (["train.loss=wpo", "train.pref_loss=ipo"], "train.loss is 'wpo'; it needs train.pref_loss=sigmoid"),
        (["train.smoothing=confidence", "train.pref_loss=orpo"], "it needs train.pref_loss=sigmoid"),
        (
            ["pair.min_confidence=0.6", "train.pref_loss=ipo"],
            "confidence is 0.6; it needs train.pref_loss",
        ),
        (
            ["pair.min_confidence=0.6", "train.loss=length_normalized", "train.pref_beta=5"],
            "pair.min_confidence is 0.6; it needs a train.loss of whole responses",
        ),
        (["train.smoothing=confidence", "train.pref_beta=0"], "it needs a train.pref_beta above 0"),
    ],
)
def test_losses_that_need_something_else(fake_settings, words, message):
    with pytest.raises(BadInput, match=message):
        load_recipe("tiny", [*fake_settings, *words])
