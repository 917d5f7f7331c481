"""The UltraFeedback sample, on a small local set of the same schema."""

import json
import sys

import pytest
from conftest import run_script

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


@pytest.fixture
def source(tmp_path):
    rows = [row(f"question {i}") for i in range(20)] + [row("question 3"), row("same", "a", "a"), row(" ")]
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train_prefs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def prepare(source, output, *more):
    flags = (f"--source={source}", f"--output={output}", *more)
    return run_script(sys.executable, SCRIPT, *flags, PYTHONPATH=".", HF_DATASETS_CACHE=str(output / "cache"))


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
        made.append(pairs)
    assert made[0] == made[1] != made[2]


def test_too_few_pairs(source, tmp_path):
    result = prepare(source, tmp_path, "--pairs=21")
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        "error: 20 usable pairs with distinct prompts; 21 are asked for"
    )
