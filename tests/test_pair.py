"""Stage 1.3 on small rounds written by hand."""

import json

import numpy as np
import pytest

from dice import pair, store
from dice.errors import BadInput
from dice.schema import Prompt, Response, Score, prompt_id
from dice.stage import execute


@pytest.fixture
def round_of(fake_run):
    """Writes a round: {prompt text: [(text, reward) or None per sample]}; returns its run."""

    def write(table, **settings):
        recipe = fake_run.recipe
        recipe.replay.gamma = settings.pop("gamma", 0.0)
        for key, value in settings.items():
            setattr(recipe.pair, key, value)
        folder = fake_run.round_dir(1)
        prompts, responses, scores = [], [], []
        for text, samples in table.items():
            messages = [{"role": "user", "content": text}]
            prompts.append(Prompt(prompt_id(messages), messages))
            for sample, cell in enumerate(samples):
                if cell is None:
                    continue
                response, reward = cell
                key = (prompts[-1].prompt_id, sample)
                responses.append(Response(*key, response, len(response), 1, "stop", 0))
                scores.append(Score(*key, len(response), 1, reward, 0.0, reward))
        store.write_rows(folder / "prompts.jsonl", prompts)
        store.write_rows(store.shard_path(folder / "responses", 0), responses)
        store.write_rows(store.shard_path(folder / "scores", 0), scores)
        dropped = {"prompts too long for the model": sum(not any(row) for row in table.values())}
        store.write_json(folder / "generate.manifest.json", {"dropped": dropped})
        store.write_json(folder / "score.manifest.json", {"stage": "score"})
        return fake_run

    return write


def pairs_of(run):
    lines = (run.round_dir(1) / "pairs.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_best_against_worst_at_alpha_zero(round_of):
    run = round_of({"q": [("mid", 1.0), ("best", 2.0), ("worst", -1.0)]}, alpha=0, min_samples=2)
    manifest = execute(pair.STAGE, run, 1)
    (made,) = pairs_of(run)
    assert (made["chosen"], made["rejected"]) == ("best", "worst")
    assert (made["chosen_sample"], made["rejected_sample"]) == (1, 2)
    assert (made["chosen_reward"], made["rejected_reward"]) == (2.0, -1.0)
    assert manifest["alpha"] == 0 and manifest["length_difference"] == -1.0


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
            "same reward": [("one", 1.0), ("two", 1.0)],
            "same text": [("one", 1.0), ("one", 0.5)],
            "too few": [("one", 1.0), None],
            "unanswered, which stage 1.1 has counted": [None, None],
        },
        alpha=0,
        min_samples=2,
    )
    manifest = execute(pair.STAGE, run, 1)
    assert len(pairs_of(run)) == 1
    assert manifest["dropped"] == {
        "prompts with under 2 scored responses": 1,
        "prompts with a zero margin": 1,
        "prompts with identical texts": 1,
    }


def test_ties_go_to_the_lower_sample(round_of):
    run = round_of({"q": [("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 0.0)]}, alpha=0, min_samples=2)
    execute(pair.STAGE, run, 1)
    assert (pairs_of(run)[0]["chosen"], pairs_of(run)[0]["rejected"]) == ("a", "c")


def test_replay_is_mixed_in_and_exported(round_of, data_dir):
    table = {f"q{i}": [("good", 1.0), ("bad", 0.0)] for i in range(6)}
    run = round_of(table, alpha=0, min_samples=2, gamma=0.5)
    manifest = execute(pair.STAGE, run, 1)
    # 20 offline pairs, 6 generated: min(10, 6) = 6 generated and 6 offline.
    assert (manifest["pairs"], manifest["generated"], manifest["offline"]) == (6, 6, 6)
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


BAD_SCORES = {
    "twice": (lambda rows: [*rows, rows[0]], "part-00000.jsonl:3: sample 0 of its prompt is scored twice"),
    "not a number": (
        lambda rows: [rows[0], Score("?", 1, 1, 1, 0.0, 0.0, float("nan"))],
        "part-00000.jsonl:2: scores a response that was not sampled",
    ),
    "of no sample": (lambda rows: [Score(rows[0].prompt_id, 99, 1, 1, 0.0, 0.0, 0.0)], "was not sampled"),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_bad_scores_are_named(round_of, case):
    run = round_of({"q": [("good", 1.0), ("bad", 0.0)]}, min_samples=2)
    change, message = BAD_SCORES[case]
    path = store.shard_path(run.round_dir(1) / "scores", 0)
    store.write_rows(path, change(list(store.read_rows(path, Score))))
    with pytest.raises(BadInput) as caught:
        execute(pair.STAGE, run, 1)
    assert message in str(caught.value)
    assert not (run.round_dir(1) / "pairs.jsonl").exists()


def test_a_reward_that_is_not_a_number_is_named(round_of):
    run = round_of({"q": [("good", float("nan")), ("bad", 0.0)]}, min_samples=2)
    with pytest.raises(BadInput, match="part-00000.jsonl:1: reward is nan; it must be a finite number"):
        execute(pair.STAGE, run, 1)


def test_a_score_without_its_response_is_named(round_of):
    run = round_of({"q": [("good", 1.0), ("bad", 0.0)]}, min_samples=2)
    path = store.shard_path(run.round_dir(1) / "responses", 0)
    store.write_rows(path, list(store.read_rows(path, Response))[:1])
    with pytest.raises(BadInput, match="sample 1 of prompt .* is scored but has no response"):
        execute(pair.STAGE, run, 1)


def test_nothing_left_to_train_on(round_of):
    run = round_of({"q": [("one", 1.0), ("one", 0.0)]}, alpha=0, min_samples=2)
    with pytest.raises(BadInput, match="nothing to train on"):
        execute(pair.STAGE, run, 1)


def test_tokens_may_be_balanced_instead(fake_run):
    settings = fake_run.recipe.pair
    settings.length, settings.alpha = "tokens", 1.0
    scores = pair.Scores(
        ["p"],
        np.array([[5.0, 4.0]]),
        np.array([[1, 1]]),
        np.array([[3, 1]]),
        np.ones((1, 2), bool),
    )
    best, worst, shaped, _ = pair.choose(scores, settings)
    assert shaped.tolist() == [[2.0, 3.0]]  # 5 - 3, 4 - 1
    assert (best[0], worst[0]) == (1, 0)
