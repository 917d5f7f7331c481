"""Fixtures: runs with the fake engine, and a tiny random Llama for the real ones."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dice import manifests, recipe_io, store
from dice.recipe import ROOT
from dice.stage import seal
from dice.worker import Worker

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line (a figure, say) at the end of the tests, whichever process they run in."""
    return lambda line: request.node.user_properties.append(("told", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
    lines = [line for r in reports if r.when == "call" for name, line in r.user_properties if name == "told"]
    if lines:
        terminalreporter.section("figures")
        for line in lines:
            terminalreporter.line(line)


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
        f"evaluate.judge={ROOT / 'tests' / 'judge.py'}:quality",
    ]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture
def fake_settings(data_dir: Path, tmp_path: Path) -> list[str]:
    return make_settings(data_dir, tmp_path / "results")


@pytest.fixture
def fake_run(fake_settings: list[str]) -> store.Run:
    """A run with the fake engine, its recipe.yaml written."""
    return store.create_run(recipe_io.load_recipe("tiny", fake_settings))


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's only worker in this process instead of one of its own: a second saved each time."""

    def run_workers(stage: str, folder: Path, arguments: list[str], *_: object) -> None:
        importlib.import_module(f"dice.{stage}").work(Worker(0, 1, 0, folder / "progress"), *arguments)
        shutil.rmtree(folder / "progress")

    monkeypatch.setattr("dice.launch.run_workers", run_workers)


def write_manifest(folder: Path, stage: str, **figures: object) -> None:
    """The manifest of a stage that did nothing but what a test needs of it."""
    shape = {name: kind() if isinstance(kind, type) else 0 for name, kind in manifests.SHAPE.items()}
    manifests.write(folder / f"{stage}.manifest.json", shape | {"stage": stage} | figures)


def run_script(*command: str, timeout: float = 600, **env: str) -> subprocess.CompletedProcess[str]:
    """A script or command of the repository, with the Python that runs the tests."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "DICE_PYTHON": sys.executable, **env},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_dice(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m dice ...`."""
    return run_script(sys.executable, "-m", "dice", *arguments)


def run_python(
    script: str, *arguments: str, timeout: float = 600, **env: str
) -> subprocess.CompletedProcess[str]:
    """A piece of Python in a process of its own, with tests and package importable."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return run_script(sys.executable, "-c", script, *arguments, timeout=timeout, PYTHONPATH=path, **env)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of the tiny world's shape, with its byte-level tokenizer."""
    return make_random_model(tmp_path_factory.mktemp("models") / "policy", seed=0)


@pytest.fixture(scope="session")
def other_random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `random_model`, with other weights."""
    return make_random_model(tmp_path_factory.mktemp("models") / "reference", seed=1)


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


@pytest.fixture
def settings(fake_settings, random_model, other_random_model):
    """Overrides of `tiny` for a small healthy run with real models."""
    fakes = ("policy=", "reference=", "generate.engine=")
    own = [word for word in fake_settings if not word.startswith(fakes)]
    models = [f"policy={random_model}", f"reference={other_random_model}"]
    return [*own, "generate.engine=hf", "train.global_batch_size=4", *models]


@pytest.fixture
def policy(random_model, tmp_path):
    """A copy of the policy to be broken."""
    return shutil.copytree(random_model, tmp_path / "policy")


def interrupt(stage, run, t):
    """Leave a finished stage as a kill would, just before its manifest was written."""
    folder = stage.folder(run, t)
    path = folder / f"{stage.name}.manifest.json"
    manifest = json.loads(path.read_text())
    store.write_json(folder / f"{stage.name}.started.json", {k: manifest[k] for k in ("inputs", "recipe")})
    seal(folder, manifest["outputs"])
    path.unlink()
    return folder
