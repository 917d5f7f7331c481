"""What all sources of rewards share: which responses they get, what is written, what is refused."""

import pytest
from commands import run_script

from dice.errors import BadInput
from dice.launch.worker import Worker
from dice.recipe.groups import REWARDS
from dice.recipe.load import load_recipe
from dice.rewards import check
from dice.rewards.scoring import score_shards, scored, settings, work
from dice.rewards.source import SOURCES, beside, responses_of
from dice.run import files
from dice.run.rows import Dropped, Graded, Prompt, Response, Score, prompt_id
from dice.run.run import create_run
from dice.stages import generate, train, train_reward_model
from dice.stages.order import STAGES, execute
from dice.stages.prepare import start

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def round_for(fake_run):
    """Makes a run of a source. Rounds 1 and 2 have ten good responses in two shards, and three bad ones."""
    texts = [f"answer number {number}" for number in range(10)]
    rows = [Response(prompt_id(MESSAGES), n, text, len(text), 3, "stop", 0) for n, text in enumerate(texts)]
    rows += [Response(prompt_id(MESSAGES), 10, "cut", 3, 3, "length", 0)]
    rows += [Response(prompt_id(MESSAGES), 11, "abc", 3, 3, "stop", 0)]
    rows += [Response(prompt_id(MESSAGES), 12, "x" * 2000, 2000, 3, "stop", 0)]
    for folder in (fake_run.round_dir(1), fake_run.round_dir(2)):
        files.write_rows(folder / "prompts.jsonl", [Prompt(prompt_id(MESSAGES), MESSAGES)])
        for shard, part in enumerate((rows[:5], rows[5:])):
            files.write_rows(files.shard_path(folder / "responses", shard), part)

    def make(source, policy="ours", seed=42):
        recipe = fake_run.recipe.model_copy(deep=True)
        recipe.policy, recipe.reference, recipe.seed = policy, "theirs", seed
        recipe.score.reward, recipe.score.reward_model = source, "rewarder"
        return create_run(recipe)

    return make


def rewards(run, tmp_path, workers=1, t=1):
    """Every response's score or drop, by sample; the scores are removed."""
    for rank in range(workers):
        work(Worker(rank, workers, rank, tmp_path / "progress"), str(run.path), str(t))
    found = {score.sample: score for score in scored(run, t)}
    for path in (run.round_dir(t) / "scores").iterdir():
        path.unlink()
    return found


def test_every_source_that_a_recipe_can_name_is_listed():
    assert tuple(SOURCES) == REWARDS


@pytest.mark.parametrize("source", REWARDS)
def test_every_source_gets_the_same_responses(round_for, tmp_path, source):
    found = rewards(round_for(source), tmp_path)
    reasons = {sample: row.reason for sample, row in found.items() if isinstance(row, Dropped)}
    assert (
        reasons.items()
        >= {
            10: "cut off at the length limit",
            11: "under 4 characters",
            12: "over 1,024 tokens with their prompt",
        }.items()
    )
    row = found[0]
    assert isinstance(row, Score)
    assert (row.n_chars, row.n_tokens) == (15, 16)  # one token a byte, and the end of the turn
    assert (row.logp_policy is None) == (row.logp_ref is None) == (source != "implicit")
    if source == "implicit":
        assert row.reward == row.logp_policy - row.logp_ref


@pytest.mark.parametrize("source", REWARDS)
def test_the_number_of_workers_changes_nothing(round_for, tmp_path, source):
    assert rewards(round_for(source), tmp_path) == rewards(round_for(source), tmp_path, workers=2)


def test_random_rewards_depend_on_seed_round_prompt_and_sample_alone(round_for, tmp_path):
    first = rewards(round_for("random"), tmp_path)
    values = [first[sample].reward for sample in range(10)]
    assert len({*values}) == 10 and all(0 <= value < 1 for value in values)
    assert rewards(round_for("random", policy="other"), tmp_path)[3].reward == values[3]
    assert rewards(round_for("random", seed=7), tmp_path)[3].reward != values[3]
    assert rewards(round_for("random"), tmp_path, t=2)[3].reward != values[3]


def test_a_reward_model_drops_what_is_too_long_for_it(round_for, tmp_path, monkeypatch):
    from dice.inference import fake

    monkeypatch.setattr(fake.RewardModel, "longest", 24)  # "user: Hi" and 16 tokens: no answer has more
    found = rewards(round_for("reward_model"), tmp_path)
    assert isinstance(found[0], Score)
    monkeypatch.setattr(fake.RewardModel, "longest", 23)
    assert rewards(round_for("reward_model"), tmp_path)[0].reason == "over 23 tokens for the reward model"


def test_a_reward_model_drops_what_its_template_refuses(round_for, tmp_path, monkeypatch):
    """One response; the others have the rewards that they had."""
    from dice.inference import fake

    encode, before = fake.RewardModel.encode, rewards(round_for("reward_model"), tmp_path)

    def refusing(self, messages, response):
        if response == "answer number 7":
            raise BadInput("the chat template of 'x' takes no such conversation")
        return encode(self, messages, response)

    monkeypatch.setattr(fake.RewardModel, "encode", refusing)
    found = rewards(round_for("reward_model"), tmp_path)
    assert found.pop(7).reason == "refused by the reward model's chat template"
    assert found == {sample: row for sample, row in before.items() if sample != 7}


def test_a_reward_that_is_no_number_is_named(round_for, tmp_path, monkeypatch):
    from dice.inference import fake

    monkeypatch.setattr(fake.RewardModel, "rewards", lambda self, rows, done: [float("nan")] * len(rows))
    with pytest.raises(BadInput, match=r"part-00000.jsonl: prompt .* sample 0: its reward is nan"):
        rewards(round_for("reward_model"), tmp_path)


def test_grades_are_averaged_and_written_down(round_for, tmp_path):
    run = round_for("judge")
    score_shards(Worker(0, 1, 0, tmp_path / "progress"), run, 1)
    graded = {}
    for shard in responses_of(run, 1):
        graded |= {row.sample: row.grades for row in files.read_rows(beside(shard, "grades"), Graded)}
    unread = [None] * 3
    assert None in sum(graded.values(), [])  # the fake judge says 6 now and then
    for score in scored(run, 1):
        grades = [grade for grade in graded.get(score.sample, unread) if grade is not None]
        if isinstance(score, Score):
            assert score.reward == pytest.approx(sum(grades) / len(grades))
        elif score.sample < 10:
            assert not grades and score.reason == "without a grade that can be read"


class Judging:
    """A judge whose grade is the question's place; it ends, as if killed, after so many answers."""

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def ask(self, questions, on_answered):
        self.asked = [question.key[-1] for question in questions]
        for index, _ in enumerate(questions):
            if index == len(self.answers):
                raise KeyboardInterrupt
            on_answered(index, [f"Grade: {index}"] * self.answers[index])


def test_a_judge_that_is_ended_goes_on_where_it_was(round_for, tmp_path, monkeypatch):
    run, worker = round_for("judge"), Worker(0, 1, 0, tmp_path / "progress")
    run.recipe.score.judge_samples = 2
    shard, other = responses_of(run, 1)
    other.unlink()
    first, second = Judging(2, 1, 2, 2), Judging(2, 2)
    monkeypatch.setattr("dice.rewards.judge.load_judge", lambda run, t: first)
    with pytest.raises(KeyboardInterrupt):
        score_shards(worker, run, 1)
    (unfinished,) = (run.round_dir(1) / "scores").iterdir()
    with unfinished.open("ab") as file:
        file.write(b'{"prompt_id": "half a li')

    monkeypatch.setattr("dice.rewards.judge.load_judge", lambda run, t: second)
    score_shards(worker, run, 1)
    assert first.asked == list("01234") and second.asked == list("14")  # 1 lacked an answer
    grades = [row.grades for row in files.read_rows(beside(shard, "grades"), Graded)]
    assert grades == [[float(grade)] * 2 for grade in (0, 0, 2, 3, 1)]
    assert not unfinished.exists()


def load(fake_settings, *overrides):
    return load_recipe("tiny", [*fake_settings, *overrides])


def test_what_scores_depend_on_is_what_their_source_reads(fake_settings):
    """So that runs that differ in something else can share them."""
    implicit = settings(load(fake_settings))
    assert implicit == settings(load(fake_settings, "score.judge_samples=9", "seed=5"))
    assert implicit != settings(load(fake_settings, "score.batch_tokens=10"))
    judge = settings(load(fake_settings, "score.reward=judge"))
    assert judge == settings(load(fake_settings, "score.reward=judge", "score.judge_timeout=9"))
    for change in ("score.judge_samples=9", "seed=5", "generate.top_p=0.5"):
        assert judge != settings(load(fake_settings, "score.reward=judge", change))


def test_only_implicit_rewards_know_the_reference_of_a_training(fake_settings):
    assert train._scores_are_of_use(load(fake_settings, "dtype=float32"))
    assert not train._scores_are_of_use(load(fake_settings, "dtype=float32", "score.reward=random"))


@pytest.mark.parametrize(
    "config, reason",
    [
        ({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, None),
        ({"architectures": ["LlamaForSequenceClassification"]}, "has 2 labels"),
        ({"architectures": ["LlamaForCausalLM"]}, "is no reward model: its config.json says LlamaForCausal"),
    ],
)
def test_what_a_config_says_of_a_reward_model(config, reason):
    found = check.no_classifier({"model_type": "llama", **config})
    assert found is None if reason is None else found.startswith(reason)


@pytest.mark.slow
def test_scoring_wants_the_runs_own_reward_model_first(fake_settings):
    run = create_run(load(fake_settings, "score.reward=reward_model"))
    execute(generate.STAGE, run, 1)
    with pytest.raises(BadInput, match="train_rm is not done; run `python -m dice train_rm .*tiny` first"):
        execute(STAGES["score"], run, 1)
    manifest = execute(train_reward_model.STAGE, run, 0)
    assert manifest.rows_out == 20
    execute(STAGES["score"], run, 1)
    before = dict(run.recipe.score.reward_args)
    run.recipe.score.reward_args["learning_rate"] = 0.5
    with pytest.raises(BadInput, match="train_rm was done with another recipe .*0.5"):
        execute(STAGES["score"], run, 1)
    run.recipe.score.reward_args = before
    assert (run.path / "reward-model" / "model" / "config.json").is_file()
    assert execute(train_reward_model.STAGE, run, 0) == manifest  # done before


def test_a_reward_model_of_another_recipe_needs_force(fake_settings):
    words = [*fake_settings, "score.reward=reward_model"]
    run = start("tiny", words)
    execute(train_reward_model.STAGE, run, 0)
    with pytest.raises(BadInput, match="train_rm would have to run again with this recipe; --force"):
        start("tiny", [*words, "score.reward_args.learning_rate=0.5"])
    start("tiny", [*words, "score.reward_args.learning_rate=0.5"], force=True)


def test_the_training_of_a_reward_model_leaves_out_what_is_of_dpo(fake_settings):
    args = train_reward_model.training_args(load(fake_settings, "score.reward_args.num_train_epochs=2"))
    assert args["stage"] == "rm" and args["num_train_epochs"] == 2
    assert not [key for key in args if key.startswith(("pref_", "save_steps", "max_steps"))]
    assert args["finetuning_type"] == "full" and args["per_device_train_batch_size"] == 32


@pytest.mark.slow
@pytest.mark.parametrize("source", [source for source in REWARDS if source != "implicit"])
def test_the_whole_loop_with_another_source(fake_settings, tmp_path, source):
    command = (
        "bash",
        "scripts/run_dice/iter.sh",
        "tiny",
        *fake_settings,
        "rounds=1",
        f"score.reward={source}",
    )
    result = run_script(*command)
    assert result.returncode == 0, result.stderr
    assert "win rate against DPO" in result.stdout
    assert ("train_rm" in result.stdout) == (source == "reward_model")
    assert ("grades:" in result.stdout) == (source == "judge")
    again = run_script(*command)
    assert again.stdout.count("done before") == 5 + (source == "reward_model")
