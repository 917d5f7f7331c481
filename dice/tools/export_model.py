"""A trained model as a plain Hugging Face folder: adapters merged, sharded checkpoints gathered.

What comes out loads with `AutoModelForCausalLM.from_pretrained`, in vLLM and anywhere else, without DICE,
peft or DeepSpeed. The source is a round of a run, or any checkpoint folder of a training.
"""

import contextlib
import pickle
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from dice.errors import BadInput, first_line
from dice.launch.console import say
from dice.models import remote_code, tied, trainer
from dice.models.checkpoint import base_of, check_model, tokenizer_home
from dice.run import files
from dice.run.run import Run
from dice.run.stage import require
from dice.stages import train
from dice.tools import export_pairs, model_card

NO_TOKENIZER = ("config.json", "adapter_config.json")
TOKENIZER = [name for name in trainer.MODEL_FILES if "safetensors" not in name and name not in NO_TOKENIZER]
PARTS = {  # of the metadata of an FSDP checkpoint, besides its own classes
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
}
GENERATION = "generation_config.json"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def export_round(run: Run, t: int, output: str | None, push: str | None, pairs: bool = False) -> None:
    """Export the model of round t, with a model card that says how it came about.

    With `pairs`, those of rounds 1 to t are pushed as well, as a data set beside the model.
    """
    if pairs and not push:
        raise BadInput("--pairs goes with --push=OWNER/NAME: they become the data set OWNER/NAME-pairs")
    if push:
        _check_push(push)
    require(train.STAGE, run, t)
    if pairs:
        export_pairs.check(run, t)
    remote_code.allow(run.recipe.trust_remote_code)
    folder = Path(output).absolute() if output else run.round_dir(t) / "export"
    data_set = export_pairs.repository(push) if pairs else None
    _export(Path(run.model(t)), folder, model_card.of_round(run, t, data_set), push)
    if pairs:
        with tempfile.TemporaryDirectory() as name:
            export_pairs.write(run, t, push, Path(name))
            _push(Path(name), data_set, "dataset")


def export_checkpoint(source: str, output: str | None, push: str | None, pairs: bool = False) -> None:
    """Export any checkpoint folder: a whole model, an adapter, or one that DeepSpeed or FSDP split."""
    if pairs:
        raise BadInput(f"--pairs: {source} is a checkpoint, which has no pairs; give a run and a round")
    remote_code.allow(False)
    if not output:
        raise BadInput(f"{source} is a checkpoint; say where its model goes: --output=FOLDER")
    _export(Path(source), Path(output).absolute(), model_card.plain(source), push)


def _export(source: Path, folder: Path, readme: str, push: str | None) -> None:
    if push:
        _check_push(push)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir()) and not model_card.is_ours(folder)):
        raise BadInput(f"{folder} exists and was not made by export; give --output=FOLDER")
    collect = _collector(source)
    partial = folder.with_name(f".{folder.name}.partial")
    files.remove(partial)
    partial.mkdir(parents=True)
    try:
        how = collect(source, partial)
        files.write_text(partial / "README.md", readme)
        for path in partial.iterdir():
            files.open_to_readers(path)
        files.remove(folder)
        partial.replace(folder)
    finally:
        files.remove(partial)
    say(f"export    {how}: {folder}", mark="+")
    if push:
        _push(folder, push)


def _collector(source: Path) -> Callable[[Path, Path], str]:
    """What writes the model of `source` to a folder and says how. Raises BadInput where there is none."""
    if (source / "adapter_config.json").is_file():
        return merge
    if any(source.glob("model*.safetensors")):
        return _copy_model
    if any(source.glob("global_step*")):
        return _gather_deepspeed
    if any(source.glob("pytorch_model_fsdp_*")):
        return _gather_fsdp
    raise BadInput(
        f"{source}: no model here; a model has model*.safetensors, an adapter adapter_config.json, a "
        "checkpoint of DeepSpeed global_step*, one of FSDP pytorch_model_fsdp_*"
    )


def _copy(source: Path, target: Path, patterns: Iterable[str]) -> None:
    for path in {path for pattern in patterns for path in source.glob(pattern)}:
        shutil.copy2(path, target / path.name)


def _copy_model(source: Path, target: Path) -> str:
    _copy(source, target, trainer.MODEL_FILES)
    return "copied"


def merge(adapter: Path, target: Path) -> str:
    """Base plus adapter, in the base's own precision; with the base's own generation_config.json.

    `target` is a folder. Says what was done. Raises BadInput for what can't be merged.
    """
    import torch
    from peft import PeftModel
    from transformers import GenerationConfig
    from transformers.utils import cached_file

    from dice.models.loading import whole_model

    base = base_of(str(adapter))
    check_model("adapter", str(adapter))
    try:
        whole = whole_model(base, dtype="auto", device_map={"": torch.device("cpu")})
        tied.separate(whole)
        merged = PeftModel.from_pretrained(whole, str(adapter)).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise BadInput(f"{adapter} can't be merged into its base {base}: {reason}") from error
    tied.settle(merged)
    quietly = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    generation = cached_file(base, GENERATION, **quietly)
    if generation:  # transformers reads some that it refuses to write
        merged.generation_config = GenerationConfig()
    merged.save_pretrained(target)
    if generation:
        shutil.copy2(generation, target / GENERATION)
    _copy_tokenizer(Path(tokenizer_home(str(adapter))), target)
    return f"merged into its base {base}"


def _gather_deepspeed(source: Path, target: Path) -> str:
    """The weights of a ZeRO checkpoint, put together from all processes' parts."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    remote_code.allow_deepspeed_states()
    with _naming(source):
        state = get_fp32_state_dict_from_zero_checkpoint(str(source))
    _save_whole(source, target, state)
    return "gathered from DeepSpeed's parts"


def _gather_fsdp(source: Path, target: Path) -> str:
    """The weights of an FSDP checkpoint, put together from all processes' parts."""
    from accelerate.utils import merge_fsdp_weights
    from safetensors.torch import load_file

    state: dict[str, Any] = {}
    sharded = next(source.glob("pytorch_model_fsdp_*"))
    with _naming(source):
        with (sharded / ".metadata").open("rb") as file:
            _Metadata(file).load()  # raises, where the library would run what stands in it
        merge_fsdp_weights(str(sharded), str(target / "fsdp"))
        for part in (target / "fsdp").glob("*.safetensors"):
            state |= load_file(part)
    files.remove(target / "fsdp")
    _save_whole(source, target, state)
    return "gathered from FSDP's parts"


class _Metadata(pickle.Unpickler):
    """Reads what lists the parts of an FSDP checkpoint, and takes nothing but what belongs there."""

    def find_class(self, module: str, name: str) -> Any:
        import torch

        if "." not in name:  # dots would lead on to what a module has imported
            found = super().find_class(module, name)
            is_own = module == "torch.distributed.checkpoint.metadata" and isinstance(found, type)
            is_dtype = module == "torch" and isinstance(found, torch.dtype)
            if is_dtype or (is_own and found.__module__ == module) or (module, name) in PARTS:
                return found
        raise pickle.UnpicklingError(f".metadata asks for {module}.{name}, which does not belong there")


@contextlib.contextmanager
def _naming(source: Path) -> Iterator[None]:
    """Turns what goes wrong with a checkpoint's parts into one line with its name."""
    try:
        yield
    except Exception as error:  # of any kind: these files are other libraries' own
        raise BadInput(f"{source}: its parts can't be put together: {first_line(error)}") from error


def _save_whole(source: Path, target: Path, state: dict[str, Any]) -> None:
    """Write a model of the source's configuration with these weights, in the configuration's precision."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (source / "config.json").is_file():
        raise BadInput(f"{source}: no config.json; copy the one of the model that was trained there")
    config = AutoConfig.from_pretrained(source, **remote_code.config_options())
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, **remote_code.config_options())
    found = model.load_state_dict(state, strict=False, assign=True)
    tied.settle(model)
    lacking = [name for name in found.missing_keys if name not in (model._tied_weights_keys or ())]
    if lacking or found.unexpected_keys:
        name = (lacking or found.unexpected_keys)[0]
        raise BadInput(f"{source}: its parts are not a whole model of its config.json ({name})")
    model.to(config.dtype or torch.float32).save_pretrained(target)
    _copy_tokenizer(source, target)


def _copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer's files beside the weights, from a folder or from the Hub."""
    if not source.is_dir():
        from transformers import AutoTokenizer

        AutoTokenizer.from_pretrained(str(source), **remote_code.config_options()).save_pretrained(target)
    else:
        _copy(source, target, TOKENIZER)


def _check_push(repository: str) -> None:
    """Raises BadInput for what is no repository's name, and without a token."""
    from huggingface_hub import get_token

    if not REPOSITORY.fullmatch(repository):
        raise BadInput(f"--push is {repository!r}; it must be OWNER/NAME, a repository of the Hub")
    if not get_token():
        raise BadInput(f"--push={repository}: no token of the Hub; run `hf auth login`, or set HF_TOKEN")


def _push(folder: Path, repository: str, kind: str = "model") -> None:
    """Upload a folder to the Hub. Raises BadInput without a right to write."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi()
        api.create_repo(repository, repo_type=kind, exist_ok=True, private=True)
        api.upload_folder(repo_id=repository, repo_type=kind, folder_path=folder)
    except (HfHubHTTPError, OSError) as error:
        reason = first_line(error)
        there = f"; the export itself lies in {folder}" if kind == "model" else ""
        raise BadInput(f"--push={repository}: {reason}{there}") from error
    say(f"export    {kind} pushed to {repository} (private; change that on the Hub)", mark="+")
