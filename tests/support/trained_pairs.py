"""Preference pairs to train on, their table, and what trainings of them are held to."""

import json
import sys
from pathlib import Path

import pytest
import yaml
from commands import run_script
from fake_world import TOPICS
from trainings import PATH, TRAIN, config, weights

from dice.inference.scorer import Options, Scorer
from dice.models.chat_template import load_chat
from dice.models.reference_table import ReferenceTable, response_hash
from dice.run import files
from dice.run.rows import Message, Smoothing, pair_key


def rows(count):
    """Preferences of many lengths."""
    return [
        {
            "instruction": f"{number}: what about {TOPICS[number % 10]}?",
            "chosen": " ".join(TOPICS[number % 3 : 4 + number % 6]) * (1 + number % 4),
            "rejected": " ".join(TOPICS[number % 7 : 8]) or "no",
        }
        for number in range(count)
    ]


def make_pairs(folder):
    """A dataset_dir with 64 preferences, and smoothing.jsonl for half of them."""
    (folder / "pairs.json").write_text(json.dumps(rows(64)))
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"pairs": entry}))
    turns = [[Message(role="user", content=row["instruction"])] for row in rows(64)]
    keys = [pair_key(turn, row["chosen"], row["rejected"]) for turn, row in zip(turns, rows(64), strict=True)]
    files.write_rows(folder / "smoothing.jsonl", [Smoothing(key, n / 64) for n, key in enumerate(keys[:32])])
    return folder


def scored(policy, count=30, bits=None, dtype="float32", **options):
    """The table of some rows as scoring would have made it."""
    chat = load_chat(str(policy), "llama3-custom")
    scorer = Scorer(Options(dtype, "auto", bits, "auto", **options))
    scorer.use(str(policy))
    encoded = [
        chat.encode([Message(role="user", content=row["instruction"])], row[side])
        for row in rows(64)[:count]
        for side in ("chosen", "rejected")
    ]
    sums = [float(logps.sum()) for logps in scorer.token_logps(encoded)]
    return ReferenceTable(zip((response_hash(*ids) for ids in encoded), sums, strict=True))


def sides(data, folder, policy, bits=None, **changes):
    """One training with each kind of reference: by a model, from a table that knows half of the rows.

    The last one has the table too, and reads batches in packs. In this order one process can do all: once
    there is a table, LLaMA-Factory loads no reference model.
    """
    adapter = changes.get("adapter_name_or_path")
    scored(adapter or policy, bits=bits).save(folder / "known.safetensors")
    table = {"reference_logps": "table", "reference_table": str(folder / "known.safetensors")}
    model = {"reference_logps": "model", "ref_model": str(policy)}
    model |= {"ref_model_adapters": adapter} if adapter else {}
    return [
        config(data, folder / name, policy, **changes, **own)
        for name, own in (("model", model), ("table", table), ("packs", table | {"pack_tokens": "auto"}))
    ]


def state(output):
    return json.loads((output / "trainer_state.json").read_text())


def history(output):
    return state(output)["log_history"]


def compare(first, second, steps=30, tolerance=1e-5):
    """Losses, rewards and weights of two trainings are equal; and something was learned."""
    ours, theirs = history(first), history(second)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for key in ("loss", "eval_loss", "rewards/chosen", "rewards/margins", "eval_rewards/margins"):
            assert one.get(key, 0) == pytest.approx(other.get(key, 0), abs=tolerance), (one, other)
    losses = [entry["loss"] for entry in ours if "loss" in entry]
    assert len(losses) == steps and losses[-1] < losses[0]
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    assert max(float((one[key] - other[key]).abs().max()) for key in one) <= tolerance


def refused(config, *arguments):
    """The one line that a training ends with before its first step."""
    path = Path(config["output_dir"] + ".yaml")
    path.write_text(yaml.safe_dump(config))
    told = path.with_suffix(".complaint")
    result = run_script(
        sys.executable, str(TRAIN), str(path), *arguments, PYTHONPATH=PATH, DICE_COMPLAINT=str(told)
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    status, said = told.read_text().splitlines()
    assert status == "2"
    assert f"error: {said}\n" in result.stderr
    assert not (Path(config["output_dir"]) / "trainer_log.jsonl").exists()
    return said
