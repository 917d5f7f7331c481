"""Fixtures: runs with the fake engine, and a tiny random Llama for the real ones."""

import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_world import make_data, make_random_model, make_settings
from hypothesis import HealthCheck, settings

from dice.launch.worker import Worker
from dice.recipe import load
from dice.run.run import Run, create_run

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test needs the network
settings.register_profile("dice", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("dice")  # a slow disk is no fault
os.environ.pop("DICE_HERE", None)  # of test.sh: a test stands where it says


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


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return make_data(tmp_path / "data")


@pytest.fixture
def fake_settings(data_dir: Path, tmp_path: Path) -> list[str]:
    return make_settings(data_dir, tmp_path / "results")


@pytest.fixture
def fake_run(fake_settings: list[str]) -> Run:
    """A run with the fake engine, its recipe.yaml written."""
    return create_run(load.load_recipe("tiny", fake_settings))


@pytest.fixture
def workers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage's only worker in this process instead of one of its own: a second saved each time."""

    def run_workers(module: str, folder: Path, arguments: list[str], *_: object) -> None:
        importlib.import_module(module).work(Worker(0, 1, 0, folder / "progress"), *arguments)
        shutil.rmtree(folder / "progress")

    monkeypatch.setattr("dice.launch.processes.run_workers", run_workers)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of the tiny world's shape, with its byte-level tokenizer."""
    return make_random_model(tmp_path_factory.mktemp("models") / "policy", seed=0)


@pytest.fixture(scope="session")
def other_random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like `random_model`, with other weights."""
    return make_random_model(tmp_path_factory.mktemp("models") / "reference", seed=1)


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
