"""Stage 1.3 with its options, on rounds of the fake engine and on rounds written by hand."""

import json

import pytest
from rounds import pairs_of

from dice.data.prompts_and_preferences import read_preferences
from dice.errors import BadInput
from dice.inference import fake
from dice.recipe.load import load_recipe
from dice.run import files
from dice.run.run import create_run
from dice.stages import generate, pair, score
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
