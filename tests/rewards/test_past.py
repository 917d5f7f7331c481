"""Rewards of several rounds, on models whose log-probs are worked out by hand and on the fake engine's."""

import json

import pytest

from dice.errors import BadInput
from dice.inference import fake
from dice.launch.worker import Worker
from dice.recipe.load import load_recipe
from dice.rewards.scoring import inputs, scored, settings, work
from dice.run import files
from dice.run.rows import Prompt, Response, prompt_id
from dice.run.run import Run, create_run
from dice.stages import pair, score, train

WORDS = ["policy=dpo", "reference=sft"]


def run_of(fake_settings, *words):
    return create_run(load_recipe("tiny", [*fake_settings, *WORDS, "rounds=4", *words]))


@pytest.mark.parametrize(
    ("words", "t", "ends", "read"),
    [
        ([], 1, (0, -1), [0, -1]),
        ([], 3, (2, 1), [2, 1]),
        (["score.average_rounds=2"], 1, (0, -1), [0, -1]),
        # ((model 0 - model -1) + (model 1 - model 0)) / 2
        (["score.average_rounds=2"], 2, (1, -1), [1, -1]),
        (["score.average_rounds=2"], 4, (3, 1), [3, 1]),
        (["score.average_rounds=9"], 4, (3, -1), [3, -1]),
        (["score.reference=first"], 3, (2, -1), [2, -1]),
        (["score.consistency=true"], 1, (0, -1), [0, -1]),
        (["score.consistency=true"], 3, (2, 1), [2, 1, 0]),
        (["score.consistency=true", "score.reference=first"], 3, (2, -1), [2, -1, 1]),
        (["score.consistency=true", "score.average_rounds=2"], 4, (3, 1), [3, 1, 2, 0]),
    ],
)
def test_which_models_a_reward_is_made_of(fake_settings, words, t, ends, read):
    run = run_of(fake_settings, *words)
    assert (run.ends(t), run.reads(t)) == (ends, read)
    names = {0: "dpo", -1: "sft"} | {n: str(run.round_dir(n) / "model") for n in (1, 2, 3)}
    assert (run.policy(t), run.reference(t)) == (names[ends[0]], names[ends[1]])


def test_which_models_are_the_user_s_own(fake_settings):
    plain, mean = run_of(fake_settings), run_of(fake_settings, "score.average_rounds=2")
    first = run_of(fake_settings, "score.reference=first")
    both = {"policy": "policy", "reference": "reference"}
    assert [plain.given(t) for t in (1, 2, 3)] == [both, {"reference": "policy"}, {}]
    assert [mean.given(t) for t in (1, 2, 3)] == [both, {"reference": "reference"}, {"reference": "policy"}]
    assert [first.given(t) for t in (1, 3)] == [both, {"reference": "reference"}]


def test_settings_of_a_run_of_before_stay_as_they_are(fake_settings):
    keys = ("average_rounds", "reference", "consistency")
    assert not {*keys} & settings(run_of(fake_settings).recipe).keys()
    found = settings(run_of(fake_settings, "score.average_rounds=2", "score.consistency=true").recipe)
    assert (found["average_rounds"], found["consistency"], "reference" in found) == (2, True, False)
    with pytest.raises(BadInput, match="score.average_rounds is 2; it needs score.reward=implicit"):
        run_of(fake_settings, "score.average_rounds=2", "score.reward=random")
    with pytest.raises(BadInput, match="score.average_rounds is 2; it needs score.reference=previous"):
        run_of(fake_settings, "score.average_rounds=2", "score.reference=first")


@pytest.mark.parametrize(
    "words",
    [
        ["score.average_rounds=2"],
        ["score.reference=first"],
        ["score.consistency=true", "train.smoothing=consistency"],
    ],
)
def test_round_1_looks_back_on_nothing_and_is_as_without_options(fake_settings, words):
    plain, run = run_of(fake_settings), run_of(fake_settings, *words)
    stages = (score.STAGE, pair.STAGE, train.STAGE)
    assert [stage.settings(run, 1) for stage in stages] == [stage.settings(plain, 1) for stage in stages]
    assert [stage.settings(run, 2) for stage in stages] != [stage.settings(plain, 2) for stage in stages]


@pytest.fixture
def third_round(fake_settings):
    """Makes a run whose third round has four responses in two shards, and fake models of rounds 1 and 2."""

    def make(*words) -> Run:
        run = run_of(fake_settings, *words)
        asked = [{"role": "user", "content": "Hi"}]
        folder, name = run.round_dir(3), prompt_id(asked)
        files.write_rows(folder / "prompts.jsonl", [Prompt(name, asked)])
        rows = [
            Response(name, n, text, len(text), 1, "stop", 0)
            for n, text in enumerate(("one word", "two words", "and three words", "four"))
        ]
        for shard, part in enumerate((rows[:3], rows[3:])):
            files.write_rows(files.shard_path(folder / "responses", shard), part)
        for t in (1, 2):
            files.write_json(run.round_dir(t) / "model" / "config.json", {"digest": f"of round {t}"})
        return run

    return make


@pytest.mark.parametrize("word", ["score.average_rounds=2", "score.reference=first"])
def test_mean_and_round_before_by_four_models(third_round, tmp_path, word):
    run = third_round(word, "score.consistency=true")
    work(Worker(0, 1, 0, tmp_path / "progress"), str(run.path), "3")
    models = [run.model(t) for t in (-1, 0, 1, 2)]
    for shard in files.shards(run.round_dir(3) / "responses"):
        for response in files.read_rows(shard, Response):
            ids = fake.Chat().encode([{"role": "user", "content": "Hi"}], response.response)
            sft, dpo, first, second = (fake.logps(fake.identity(model), *ids).sum() for model in models)
            row = next(row for row in scored(run, 3) if row.sample == response.sample)
            if word == "score.average_rounds=2":  # ((first - dpo) + (second - first)) / 2
                expected, earlier, reference = (second - dpo) / 2, first - sft, dpo
            else:
                expected, earlier, reference = second - sft, first - sft, sft
            assert row.reward == pytest.approx(expected)
            assert row.reward_before == pytest.approx(earlier)
            assert (row.logp_policy, row.logp_ref) == (pytest.approx(second), pytest.approx(reference))


def test_a_killed_worker_s_passes_are_not_made_again(third_round, tmp_path, monkeypatch):
    whole = third_round("score.average_rounds=2", "score.consistency=true")
    work(Worker(0, 1, 0, tmp_path / "progress"), str(whole.path), "3")
    expected = {path.name: path.read_bytes() for path in (whole.round_dir(3) / "scores").glob("*.jsonl")}
    assert {"reference", "model of round 1", "model of round -1"} < inputs(whole, 3).keys()
    for path in (whole.round_dir(3) / "scores").iterdir():
        path.unlink()
    used, use = [], fake.Scorer.use

    def dying(self, model):
        if len(used) == 5:
            raise KeyboardInterrupt
        used.append(model)
        use(self, model)

    monkeypatch.setattr(fake.Scorer, "use", dying)
    with pytest.raises(KeyboardInterrupt):  # the third model has read the first of two shards
        work(Worker(0, 1, 0, tmp_path / "progress"), str(whole.path), "3")
    left = (whole.round_dir(3) / "scores" / "halfway-00000.jsonl").read_text().splitlines()
    assert [len(json.loads(line)["others"]) for line in left] == [2, 2, 2]  # dpo and model 1
    monkeypatch.setattr(fake.Scorer, "use", lambda self, model: (used.append(model), use(self, model)))
    del used[:]
    work(Worker(0, 1, 0, tmp_path / "progress"), str(whole.path), "3")
    assert used == [whole.model(1), "sft", "sft"]
    found = {path.name: path.read_bytes() for path in (whole.round_dir(3) / "scores").glob("*.jsonl")}
    assert found == expected
