"""LLaMA-Factory's own command line, as users of an extension expect it to work."""

import sys

import pytest
import yaml
from commands import run_script
from trainings import config

from dice.data import dataset_dir
from dice.recipe.paths import ROOT
from dice.run.rows import Preference, prompt_id

STAND_IN = ROOT / "llama-factory" / "torchaudio"


@pytest.mark.slow
def test_it_trains_on_a_rounds_data_set(random_model, tmp_path):
    """With the stand-in for torchaudio, which setup.sh installs where no build of it runs."""
    asked = [[{"role": "user", "content": f"What is {n}?"}] for n in range(32)]
    pairs = [Preference(prompt_id(said), said, "It is a number.", "No.") for said in asked]
    dataset_dir.write(tmp_path / "dataset", [], pairs)
    settings = config(tmp_path / "dataset", tmp_path / "model", random_model, max_steps=2)
    settings |= {"dataset": "mixed", "template": "llama3", "use_cpu": True}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "llamafactory.cli", "train", str(tmp_path / "train.yaml")]
    trained = run_script(*command, PYTHONPATH=str(STAND_IN), OMP_NUM_THREADS="1")
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert (tmp_path / "model" / "model.safetensors").is_file()


@pytest.mark.slow
def test_audio_says_what_it_needs():
    asked = run_script(sys.executable, "-c", "import torchaudio; torchaudio.load", PYTHONPATH=str(STAND_IN))
    assert "AttributeError: torchaudio.load: there is a stand-in for torchaudio here" in asked.stderr
