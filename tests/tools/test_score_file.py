"""Scoring outside the loop: any file, any two models, and a preference set's labels."""

import json
import shutil
import sys

import numpy as np
import pyarrow.parquet
import pytest
from commands import run_script

from dice.data.answers import read_answers, read_pairs
from dice.errors import BadInput
from dice.inference.scorer import Options, Scorer
from dice.recipe.paths import ROOT
from dice.tools import agreement, score_file
from dice.tools.agreement import Agreement, correlation

pytestmark = pytest.mark.slow

DICE = (sys.executable, "-m", "dice")
HI = [{"role": "user", "content": "Hi"}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *HI]


def write(path, rows):
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("row", "messages", "responses"),
    [
        ({"prompt": "Hi", "response": "Yes."}, HI, ["Yes."]),
        ({"prompt": "Hi", "responses": ["Yes.", "No."]}, HI, ["Yes.", "No."]),
        ({"prompt": HI, "completion": [{"role": "assistant", "content": "Yes."}]}, HI, ["Yes."]),
        ({"instruction": "Hi", "output": "Yes."}, HI, ["Yes."]),
        (
            {"instruction": "Say", "input": "yes", "output": "Yes."},
            [{"role": "user", "content": "Say\nyes"}],
            ["Yes."],
        ),
        ({"messages": [*WITH_SYSTEM, {"role": "assistant", "content": "Yes."}]}, WITH_SYSTEM, ["Yes."]),
        (
            {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes."}]},
            HI,
            ["Yes."],
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_columns_tell_what_a_file_is(tmp_path, row, messages, responses, suffix):
    (found,), dropped = read_answers(write(tmp_path / f"rows{suffix}", [row]), "data")
    assert (found.row, found.messages, found.responses) == (row, messages, responses)
    assert not dropped


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hi", "chosen": "Yes.", "rejected": "No."},
        {"instruction": "Hi", "chosen": "Yes.", "rejected": "No."},
        {
            "prompt": "Hi",
            "chosen": [*HI, {"role": "assistant", "content": "Yes."}],
            "rejected": [*HI, {"role": "assistant", "content": "No."}],
        },
        {
            "chosen": [*HI, {"role": "assistant", "content": "Yes."}],
            "rejected": [*HI, {"role": "assistant", "content": "No."}],
        },
        {
            "prompt": HI,
            "chosen": [{"role": "assistant", "content": "Yes."}],
            "rejected": [{"role": "assistant", "content": "No."}],
        },
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Yes."},
            "rejected": {"from": "gpt", "value": "No."},
        },
    ],
)
def test_preferences_of_every_form(tmp_path, row):
    (pair,), _ = read_pairs(write(tmp_path / "rows.jsonl", [row]), "data")
    assert (pair.messages, pair.chosen, pair.rejected) == (HI, "Yes.", "No.")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"question": "Hi"}], r"rows.jsonl:1: no prompt in sight.*this one has: question"),
        ([{"prompt": "Hi", "answer": "Yes"}], r"rows.jsonl:1: no response; a row needs one of"),
        ([{"prompt": "Hi", "response": "a"}, {"prompt": "Hi"}], r"rows.jsonl:2: no response; a row needs"),
        ([{"prompt": "Hi", "response": 5}], r"rows.jsonl:1: response is 5; it must be text"),
        ([{"prompt": "Hi", "responses": []}], r"no row with a prompt and a response.*without a response"),
        ([{"prompt": "Hi", "responses": ["\ud800"]}], r"no row .*half a character"),
        ([{"messages": HI}], r"no row with a prompt and a response \(1 rows with an answer that is not the"),
        ([], r"rows.jsonl: no row with a prompt and a response \(it has no rows"),
    ],
)
def test_what_is_no_answer_is_named(tmp_path, rows, message):
    with pytest.raises(BadInput, match=message):
        read_answers(write(tmp_path / "rows.jsonl", rows), "data")


def test_a_file_without_preferences_is_none(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Hi", "response": "Yes."}])
    with pytest.raises(BadInput, match="no column 'chosen'; a preference set has chosen and rejected"):
        read_pairs(path, "data")


def test_an_output_that_cannot_be_written_is_found_before_scoring(tmp_path):
    (tmp_path / "file").write_text("")
    path = write(tmp_path / "rows.jsonl", [{"prompt": "Hi", "response": "Yes."}])
    with pytest.raises(BadInput, match="--output: .* can't be written"):
        score_file.score_file(path, "tiny", [], str(tmp_path / "file" / "scores.jsonl"), False)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadInput, match=r"nothing.jsonl: there is no such file"):
        read_answers(str(tmp_path / "nothing.jsonl"), "data")
    (tmp_path / "rows.txt").write_text("Hi")
    with pytest.raises(BadInput, match=r"rows.txt: not a file of data; it must be a .json, .jsonl"):
        read_answers(str(tmp_path / "rows.txt"), "data")


def test_a_run_without_a_round_is_asked_for_it(fake_run):
    result = run_script(*DICE, "score", str(fake_run.path))
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr
        == f"error: {fake_run.path} is a run; which round? python -m dice score {fake_run.path} 1\n"
    )
    result = run_script(*DICE, "score", "answers.jsonl", "first")
    assert result.stderr == "error: 'first' is neither a round of a run nor key=value\n"
    for words in ([str(fake_run.path), "1", "--per_token"], ["answers.jsonl", "--force"]):
        assert f"{words[-1]} " in (told := run_script(*DICE, "score", *words)).stderr and told.returncode == 2


def test_the_models_must_come_from_somewhere():
    with pytest.raises(BadInput, match=r"missing: reference=... template=...; or name a recipe"):
        score_file.settings(None, ["policy=somewhere"])


ROWS = [
    {"id": 7, "prompt": "Name four animals.", "responses": ["dog, cat, cow, hen.", "dog.", "x" * 300]},
    {"id": 8, "prompt": "Name four animals.", "responses": ["red."]},
]


@pytest.mark.slow
def test_a_file_is_scored_by_two_models(random_model, other_random_model, tmp_path):
    """Rows keep their columns and order; sums and tokens equal what the models give by themselves."""
    output = tmp_path / "scores.jsonl"
    result = run_script(
        *DICE, "score", write(tmp_path / "rows.jsonl", ROWS), f"policy={random_model}",
        f"reference={other_random_model}", "template=llama3-custom", "score.cutoff_len=100", "dtype=float32",
        "--per_token", f"--output={output}",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(row["id"], row["response"]) for row in rows] == [
        (given["id"], text) for given in ROWS for text in given["responses"]
    ]
    assert [row.get("dropped") for row in rows] == [None, None, "over 100 tokens with their prompt", None]
    assert "not scored: 1 over 100 tokens with their prompt" in result.stdout

    from dice.models.chat_template import load_chat

    encode = load_chat(str(random_model), "llama3-custom").encode
    kept = [row for row in rows if row["reward"] is not None]
    encoded = [encode([{"role": "user", "content": ROWS[0]["prompt"]}], row["response"]) for row in kept]
    scorer = Scorer(Options(dtype="float32"))
    for name, model in (("logp_policy", random_model), ("logp_ref", other_random_model)):
        scorer.use(str(model))
        wanted = [logps.sum(dtype=float) for logps in scorer.token_logps(encoded)]
        np.testing.assert_allclose([row[name] for row in kept], wanted, rtol=1e-5)
    for row in kept:
        assert row["reward"] == pytest.approx(row["logp_policy"] - row["logp_ref"])
        assert sum(row["token_rewards"]) == pytest.approx(row["reward"], abs=1e-3)
        assert "".join(row["tokens"]) == row["response"] + "<|eot_id|>"
        assert len(row["tokens"]) == row["n_tokens"]

    again = run_script(
        *DICE, "score", str(tmp_path / "rows.jsonl"), "--recipe=tiny", f"--output={output}",
    )  # fmt: skip
    assert (again.returncode, again.stderr) == (
        2,
        f"error: {output} exists already; name another file with --output\n",
    )


def test_agreement_by_hand():
    """Two right, one wrong, one tied of four: 2.5 of 4."""
    found = Agreement.of(np.array([1.0, 0.5, -2.0, 0.0]))
    assert (found.pairs, found.share) == (4, 0.625)
    # The wins 1, 1, 0, 1/2 vary by 0.2292 around their mean; over 4 pairs the error is half their spread.
    assert found.error == pytest.approx(np.sqrt(0.6875 / 3 / 4))
    assert str(Agreement.of(np.array([]))) == "–"
    assert str(Agreement.of(np.array([1.0]))) == "100.0% ± –"  # one pair has no standard error


def test_correlation_by_hand():
    assert correlation(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0])) == "correlation +1.00"
    assert correlation(np.array([1.0, 1.0]), np.array([2.0, 4.0])) == "correlation –"


def test_one_model_twice_is_refused_before_it_is_scored(random_model, tmp_path, monkeypatch):
    """As the loop does: every implicit reward would be 0. A copy is the same model."""
    monkeypatch.setattr(score_file, "score_answers", None)
    pairs = write(tmp_path / "rows.jsonl", [{"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}])
    words = [f"policy={random_model}", "template=llama3-custom"]
    with pytest.raises(BadInput, match="policy and reference are both .*every implicit reward would be 0"):
        agreement.show_agreement(pairs, None, [*words, f"reference={random_model}"])
    shutil.copytree(random_model, tmp_path / "copy")
    with pytest.raises(BadInput, match="have the same weights: every implicit reward would be 0"):
        agreement.show_agreement(pairs, None, [*words, f"reference={tmp_path / 'copy'}"])


def test_labels_are_compared_with_rewards(data_dir, capsys, monkeypatch):
    """With a reward that is the number of letters e: "no cats" against "cats are fine" has none."""
    pairs = write(
        data_dir / "more.jsonl",
        [
            {"prompt": "Hi", "chosen": "eee", "rejected": "longer"},  # 3 > 1, shorter
            {"prompt": "Ho", "chosen": "eeee long", "rejected": "e"},  # 4 > 1, longer
            {"prompt": "Ha", "chosen": "no", "rejected": "eh"},  # 0 < 1, same length
        ],
    )

    def by_letter(recipe, answered, per_token=False):
        from dice.rewards.score_answers import Result
        from dice.run.rows import Score

        return [
            [
                Result(Score("x", 0, "", len(text), len(text), 0.0, 0.0, float(text.count("e"))), None, None)
                for text in texts
            ]
            for _, texts in answered
        ]

    monkeypatch.setattr(agreement, "score_all", by_letter)
    agreement.show_agreement(pairs, "tiny", [])
    printed = capsys.readouterr().out.splitlines()
    rows = {line.split("  ")[0]: line.split() for line in printed if line}
    assert rows["pairs"] == ["pairs", "3", "1", "1", "1"]
    assert " ".join(rows["agreement"][1:]) == "66.7% ± 33.3% 100.0% ± – 100.0% ± – 0.0% ± –"
    assert rows["margin, nats"][2:] == ["+1.33", "+3.00", "+2.00", "-1.00"]
    assert any(line.startswith("reward    ") and "chosen +2.33, rejected +1.00" in line for line in printed)


@pytest.mark.slow
def test_the_tiny_worlds_labels_are_found_again():
    """The check of docs/scoring.md's figure, where the tiny world has been made."""
    if not (ROOT / "data" / "tiny" / "dpo").is_dir():
        pytest.skip("the tiny world has not been made here; `iter.sh tiny` makes it")
    result = run_script(
        "bash",
        "-c",
        'source scripts/env.sh; "$PYTHON" -m dice reward tiny_held_out_preferences --recipe=tiny',
    )
    assert result.returncode == 0, result.stderr
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("agreement"))
    share, _, error = line.split()[1:4]
    assert float(share.rstrip("%")) - 3 * float(error.rstrip("%")) > 50


def test_rewards_of_a_file_may_come_from_any_source(fake_settings, tmp_path):
    """Without a reference, which only implicit rewards need."""
    answers = tmp_path / "answers.jsonl"
    answers.write_text(json.dumps({"prompt": "Hi", "response": "Hello"}) + "\n")
    target = tmp_path / "rewards.jsonl"
    words = ["policy=fake", "template=x", "generate.engine=fake", "score.reward=random"]
    score_file.score_file(str(answers), None, words, str(target), per_token=False)
    row = json.loads(target.read_text())
    assert 0 <= row["reward"] < 1 and row["logp_policy"] is None
    with pytest.raises(BadInput, match="only implicit rewards are sums over tokens, not random ones"):
        score_file.score_file(str(answers), None, words, str(tmp_path / "others.jsonl"), per_token=True)
    with pytest.raises(BadInput, match="missing: reference="):
        score_file.score_file(str(answers), None, words[:-1], str(tmp_path / "others.jsonl"), per_token=False)


def test_a_file_that_was_scored_before_is_scored_anew(fake_settings, tmp_path):
    """Nothing is left of its columns; a date, for which JSON has no form, is written as text."""
    times = pyarrow.array([0, 0], pyarrow.timestamp("ns"))
    columns = {"prompt": ["Hi", "Hi"], "response": ["Yes", "No" * 99], "at": times, "reward": [1.0, 1.0]}
    before = {"logp_policy": [-1.0] * 2} | {
        name: ["old"] * 2 for name in ("dropped", "tokens", "token_rewards")
    }
    pyarrow.parquet.write_table(pyarrow.table(columns | before), tmp_path / "answers.parquet")
    target, words = tmp_path / "scores.jsonl", [*fake_settings, "score.cutoff_len=100"]
    score_file.score_file(str(tmp_path / "answers.parquet"), "tiny", words, str(target), per_token=False)
    scored, dropped = map(json.loads, target.read_text().splitlines())
    assert scored.keys() == {"prompt", "response", "at", *score_file.NAMES}
    assert scored["at"].startswith("1970-01-01")
    assert dropped.keys() == {"prompt", "response", "at", "reward", "dropped"} and dropped["reward"] is None
    assert score_file._others({"sample": 3, "tokens": 9}) == {"sample": 3, "tokens": 9}  # the user's own
