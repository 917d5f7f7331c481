"""The UltraFeedback sample, on a small local set of the same schema."""

import json
import sys

import pytest
from commands import run_script

import prepare_ultrafeedback
from dice.data.prompts_and_preferences import read_preferences, read_prompts
from dice.errors import BadInput
from dice.recipe.paths import ROOT

SCRIPT = "scripts/data/prepare_ultrafeedback.py"


def row(prompt, chosen="yes", rejected="no"):
    return {
        "prompt": prompt,
        "prompt_id": "x",
        "chosen": [{"role": "user", "content": prompt}, {"role": "assistant", "content": chosen}],
        "rejected": [{"role": "user", "content": prompt}, {"role": "assistant", "content": rejected}],
        "score_chosen": 8.0,
        "score_rejected": 5.0,
    }


ROWS = [row(f"question {i}", chosen="yes, " * 3) for i in range(20)]
ROWS += [row("question 3"), row("same", "a", "a"), row(" "), row("odd") | {"chosen": []}]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train_prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return folder


def prepare(source, output, *more):
    flags = (f"--source={source}", f"--output={output}", *more)
    return run_script(sys.executable, SCRIPT, *flags, PYTHONPATH=".", HF_DATASETS_CACHE=str(output / "cache"))


@pytest.mark.slow
def test_a_seeded_sample_of_distinct_prompts(source, tmp_path):
    made = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = tmp_path / name
        output.mkdir()
        result = prepare(source, output, "--pairs=12", f"--seed={seed}")
        assert result.returncode == 0, result.stderr
        pairs = json.loads((output / "ultrafeedback_10k.json").read_text())
        prompts = json.loads((output / "ultrafeedback_10k_prompts.json").read_text())
        assert [p["instruction"] for p in prompts] == [p["instruction"] for p in pairs]
        assert len({p["instruction"] for p in pairs}) == 12
        assert pairs[0].keys() == {"instruction", "chosen", "rejected"}
        assert all(p["chosen"] == "yes, yes, yes, " for p in pairs)  # the first "question 3", not the last
        made.append(pairs)
    assert made[0] == made[1] != made[2]


@pytest.mark.slow
def test_too_few_pairs(source, tmp_path):
    result = prepare(source, tmp_path, "--pairs=21")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        "error: 20 usable pairs with distinct prompts; 21 are asked for"
    )


@pytest.mark.slow
def test_the_sample_is_registered_and_has_a_card(source, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "dataset_info.json").write_text('{\n  "mine": {"file_name": "mine.json"}\n}\n')
    assert prepare(source, output, "--pairs=12").returncode == 0
    pairs, _ = read_preferences(str(output), "ultrafeedback_10k")
    prompts, _ = read_prompts(str(output), "ultrafeedback_10k_prompts")
    assert [p.prompt_id for p in pairs] == [p.prompt_id for p in prompts] and len(pairs) == 12
    assert "mine" in json.loads((output / "dataset_info.json").read_text())
    card = (output / "ultrafeedback_10k.md").read_text()
    origin = "Distinct prompts, drawn with seed 42 from the 20 usable pairs"
    assert f"12 preference pairs.\n{origin}\n" in card
    for reason in (
        "duplicate prompt",
        "identical answers",
        "empty prompt or answer",
        "not one question and one answer",
    ):
        assert f"| {reason} | 1 |" in card
    assert "| chosen | 15 | 15 | 15 | 15 | 15 |" in card and "| rejected | 2 | 2 | 2 | 2 | 2 |" in card
    assert "Chosen is longer than rejected in 100.0% of the pairs." in card
    written = (output / "ultrafeedback_10k.json").read_bytes()
    assert prepare(source, output, "--pairs=12", "--seed=7").stdout == ""  # it is there already
    assert (output / "ultrafeedback_10k.json").read_bytes() == written


@pytest.mark.slow
def test_parquet_and_the_default_size(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "source").mkdir()
    table = pyarrow.Table.from_pylist([row(f"question {i}") for i in range(10_200)])
    pyarrow.parquet.write_table(table, tmp_path / "source" / "train_prefs-00000-of-00001.parquet")
    result = prepare(tmp_path / "source", tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(read_preferences(str(tmp_path), "ultrafeedback_10k")[0]) == 10_176


@pytest.mark.slow
def test_rows_of_another_kind(tmp_path):
    (tmp_path / "train_prefs.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    result = prepare(tmp_path, tmp_path, "--pairs=1")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        "error: row 1: not a row of HuggingFaceH4/ultrafeedback_binarized; it has question, answer"
    )


def test_what_is_registered_is_what_the_projects_registry_says():
    registered = json.loads((ROOT / "data" / "dataset_info.json").read_text())
    assert {name: registered[name] for name in prepare_ultrafeedback.ENTRIES} == prepare_ultrafeedback.ENTRIES


@pytest.fixture
def papers_files(tmp_path, monkeypatch):
    """A local copy of two files as the authors' are, and their hashes in place of the published ones."""
    folder = tmp_path / "paper"
    folder.mkdir()
    rows = [{"instruction": f"q{n}", "input": "", "output": [f"good {n}", f"bad {n}"]} for n in range(3)]
    (folder / "preference.json").write_text(json.dumps(rows))
    (folder / "prompt.json").write_text(json.dumps([{"instruction": row["instruction"]} for row in rows]))
    hashes = {
        name: prepare_ultrafeedback.blob_hash((folder / name).read_bytes())
        for name in ("preference.json", "prompt.json")
    }
    monkeypatch.setattr(prepare_ultrafeedback, "BLOBS", hashes)
    return folder


def test_git_s_name_of_a_content():
    """As `echo hello | git hash-object --stdin` prints it."""
    assert prepare_ultrafeedback.blob_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_the_paper_s_sample_from_a_local_copy(papers_files, tmp_path, capsys):
    prepare_ultrafeedback.main(source=str(papers_files), output=str(tmp_path / "out"), sample="paper")
    pairs, _ = read_preferences(str(tmp_path / "out"), "ultrafeedback_10k")
    prompts, _ = read_prompts(str(tmp_path / "out"), "ultrafeedback_10k_prompts")
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(f"good {n}", f"bad {n}") for n in range(3)]
    assert [prompt.prompt_id for prompt in prompts] == [pair.prompt_id for pair in pairs]
    assert (
        "The subset that the paper's authors published" in (tmp_path / "out/ultrafeedback_10k.md").read_text()
    )
    assert "published" in capsys.readouterr().out
    prepare_ultrafeedback.main(output=str(tmp_path / "out"), sample="auto")
    assert "the paper sample is in" in capsys.readouterr().out
    with pytest.raises(BadInput, match=r"--sample is seeded; remove .*ultrafeedback_10k.md to make that one"):
        prepare_ultrafeedback.main(output=str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["preference.json", "prompt.json"])
def test_a_copy_that_was_tampered_with_is_refused(papers_files, tmp_path, name):
    file = papers_files / name
    file.write_text(file.read_text().replace("q1", "q2"))
    with pytest.raises(BadInput, match=f"{name}: its git blob hash is [0-9a-f]{{40}}; the published one is"):
        prepare_ultrafeedback.main(source=str(papers_files), output=str(tmp_path / "out"), sample="paper")
    assert not (tmp_path / "out").exists()
    file.unlink()
    with pytest.raises(BadInput, match=f"{name} can't be read"):
        prepare_ultrafeedback.main(source=str(papers_files), output=str(tmp_path / "out"), sample="paper")


def test_the_seeded_sample_where_the_paper_s_can_not_be_had(source, tmp_path, capsys, monkeypatch):
    rows = (source / "train_prefs.jsonl").read_text().splitlines()
    found, dropped = prepare_ultrafeedback.usable(map(json.loads, rows))
    assert len(found) == 20 and dropped
    with pytest.raises(BadInput, match="--sample is 'best'; it must be one of seeded, paper, auto"):
        prepare_ultrafeedback.main(source=str(source), output=str(tmp_path / "out"), sample="best")
    monkeypatch.setattr(prepare_ultrafeedback, "load", lambda where: map(json.loads, rows))
    prepare_ultrafeedback.main(source=str(source), pairs=5, output=str(tmp_path / "out"), sample="auto")
    told = capsys.readouterr().out
    assert "not the paper's sample" in told and "drawn with seed 42 from the 20 usable" in told
