"""A DPO model to start from, where none is public: DPO on offline pairs, by LLaMA-Factory.

    python scripts/data/prepare_dpo.py CONFIG.yaml OUTPUT_FOLDER [key=value ...]

CONFIG is a complete LLaMA-Factory training file, with DICE's `reference_logps: table` and `pack_tokens: auto`
(`llama-factory/src/train.py`). UltraFeedback's sample is made first where the file uses it. Does nothing
where OUTPUT has a model; a training that was interrupted goes on from its last checkpoint.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the package of this checkout
from dice.launch import packages  # noqa: F401  names a package that is missing

# isort: split
import fire
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

import prepare_ultrafeedback
from dice.errors import BadInput
from dice.launch import devices
from dice.launch.console import run, say, shown
from dice.models import trainer
from dice.recipe.paths import resolve
from dice.run import files


def load(path: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """The training file with `key=value`. Raises BadInput where there is none."""
    try:
        merged = OmegaConf.merge(OmegaConf.load(resolve(path)), OmegaConf.from_dotlist(list(overrides)))
    except (OSError, OmegaConfBaseException, ValueError) as error:
        raise BadInput(f"{path}: no training file ({str(error).splitlines()[0]})") from None
    return OmegaConf.to_container(merged)


def prepare(config: str, output: str, *overrides: str) -> None:
    """Train the model of `config` into the folder `output`."""
    target = resolve(output)
    if target.exists():
        return
    settings = load(config, overrides)
    for key in ("model_name_or_path", "dataset", "dataset_dir"):
        if not settings.get(key):
            raise BadInput(f"{config}: {key} is missing; it must be a complete training file")
    if settings.get("dataset") == prepare_ultrafeedback.NAME:
        prepare_ultrafeedback.main(sample="auto")  # that of the other recipes, if it is there
    work, log = (target.with_name(f"{target.name}.{end}") for end in ("partial", "log"))
    processes = devices.workers_per_node()
    batch = settings.get("per_device_train_batch_size", 1) * settings.get("gradient_accumulation_steps", 1)
    fitted = trainer.adapt(settings, batch, processes, devices.gpu_count() > 0)
    fitted |= {"output_dir": str(work), "dataset_dir": str(resolve(settings["dataset_dir"]))}
    if settings != files.read_json(work / "settings.json"):  # of another start
        files.remove(work)
    if fitted.get("deepspeed"):
        trainer.check_processes(work, processes)
    if checkpoint := trainer.last_complete(work):
        fitted["resume_from_checkpoint"] = str(checkpoint)
    files.write_json(work / "settings.json", settings)
    say(
        f"prepare   DPO of {settings['model_name_or_path']} on {settings['dataset']}, once; log: {shown(log)}"
    )
    trained = trainer.train(fitted, log, "start")
    trainer.collect(work, target)
    say(f"prepare   {output}: trained on {trained.train_rows:,} pairs", mark="+")
    files.remove(work)


if __name__ == "__main__":
    run(lambda: fire.Fire(prepare))
