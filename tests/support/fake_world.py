"""A run with the fake engine, a tiny random Llama, and stages that were left as a kill leaves them."""

import json
import sys
from pathlib import Path

from dice.recipe.paths import ROOT
from dice.run import manifests
from dice.run.manifests import Manifest
from dice.run.state import StageFiles

TOPICS = ("cats", "rain", "tea", "boats", "stars", "bread", "chess", "snow", "maps", "bees")


def make_data(folder: Path) -> Path:
    """A dataset_dir with ten prompts and twenty preferences."""
    folder.mkdir(parents=True)
    prompts = [{"instruction": f"Tell me about {topic}."} for topic in TOPICS]
    pairs = [
        {"instruction": f"Explain {topic} {way}.", "chosen": f"{topic} are fine", "rejected": f"no {topic}"}
        for topic in TOPICS
        for way in ("briefly", "at length")
    ]
    registry = {
        "some_prompts": {"file_name": "prompts.json", "columns": {"prompt": "instruction"}},
        "some_pairs": {
            "file_name": "pairs.jsonl",
            "ranking": True,
            "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"},
        },
    }
    (folder / "prompts.json").write_text(json.dumps(prompts))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (folder / "dataset_info.json").write_text(json.dumps(registry))
    return folder


def make_settings(data: Path, results: Path) -> list[str]:
    """Overrides that turn recipe `tiny` into a run without models, in folders of the test's own."""
    return [
        "policy=fake-dpo",
        "reference=fake-sft",
        "prepare=null",
        f"dataset_dir={data}",
        f"results_dir={results}",
        "prompts=some_prompts",
        "replay.dataset=some_pairs",
        "generate.engine=fake",
        "report=false",
        "generate.samples=8",
        "generate.shard_size=3",
        "pair.min_samples=4",
        "score.judge=policy",
        "score.judge_prompt=null",
        "score.judge_max_tokens=64",
        "evaluate.prompts=some_prompts",
        f"evaluate.judge={ROOT / 'tests' / 'support' / 'judge.py'}:quality",
    ]


def write_manifest(folder: Path, stage: str, **known: object) -> None:
    """The manifest of a stage that did nothing but what a test needs of it."""
    nothing = {
        "round": 1,
        "inputs": {},
        "recipe": {},
        "outputs": {},
        "rows_in": 0,
        "rows_out": 0,
        "dropped": {},
    }
    said = {"summary": "", "seconds": 0.0, "versions": {}, "commit": None}
    made = Manifest.from_dict({"stage": stage, **nothing, **said, **known})
    manifests.write(StageFiles(folder, stage).manifest_path, made)


def make_random_model(folder: Path, seed: int, **changes: int) -> Path:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sys.path.insert(0, str(ROOT / "scripts" / "tiny"))
    import prepare

    texts = [row[key] for row in prepare.data_sets()["sft"][:500] for key in row]
    prepare.make_base(folder, ["user", "assistant", "system", "\n\n", *texts])
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **changes)).save_pretrained(folder)
    return folder


def interrupt(stage, run, t):
    """Leave a finished stage as a kill would, just before its manifest was written."""
    manifest = stage.manifest(run, t)
    stage.files(run, t).reopen(manifest, damage=())
    stage.files(run, t).begin(manifest.basis)
    return stage.folder(run, t)
