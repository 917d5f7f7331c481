"""Whether a name is a model that can be loaded: a complete checkpoint folder, or one of the Hub.

Found out from headers and file names, in milliseconds, so that a broken reference is not noticed
after hours of sampling.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dice.errors import BadInput, first_line
from dice.models import hub, remote_code, tied
from dice.recipe.paths import ROOT, here, resolve
from dice.run import files
from dice.run.digests import file_digest
from dice.run.run import model_path

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
NEED_TOKENIZER = ("policy", "score.reward_model", "score.judge")
Unfit = Callable[[dict[str, Any]], str | None]
PICKLES = ("pytorch_model*.bin", "adapter_model*.bin")
ONLY_PICKLES = (
    "has its weights as pickles only ({}), which can run code and are not read: save them as safetensors, "
    "with save_pretrained"
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")


class NotHere(BadInput):
    """A name of the Hub whose model is not on this machine, while the Hub can't be asked for it."""

    reason = "the Hub can't be reached"


class NotDownloaded(NotHere):
    """A data set of the Hub that is not in its cache, where nothing is to be downloaded."""

    reason = "a run downloads it"


def check_model(role: str, name: str, unfit: Unfit | None = None) -> Path | None:
    """The complete folder of a model: its own, or the Hub's cache; None where the Hub has it.

    `unfit` tells by its config.json why a model is not what is wanted, by default a causal LM.
    Raises BadInput for a folder that holds no such model, and for a name that is neither a folder nor a
    model of the Hub; NotHere where that can't be found out.
    """
    folder, reason = resolve(name), ""
    may_be_hub_id = HUB_ID.fullmatch(name) and not resolve(name.partition("/")[0]).exists()
    if not folder.is_dir():
        folder = downloaded(name) if may_be_hub_id else None
    if folder:
        _check_folder(role, folder, unfit or _unusable)
        return folder
    neither = f"{role}: {name!r} is neither a folder here nor a model of the Hub"
    if may_be_hub_id:
        try:
            if hub.look_up(name).is_pickled:
                raise BadInput(f"{role}: {name!r} {ONLY_PICKLES.format('*.bin')}")
            return None
        except hub.OutOfReach as error:
            raise NotHere(f"{neither} ({NotHere.reason}: {error})") from None
        except hub.NoSuchModel as error:
            reason = f"{error}; "
    places = " or in ".join(dict.fromkeys(map(str, (here(), ROOT))))
    raise BadInput(f"{neither} ({reason}no such folder{'' if Path(name).is_absolute() else f' in {places}'})")


def downloaded(name: str) -> Path | None:
    """The folder of a Hub model that was downloaded whole; None where something is missing."""
    folder = hub.cached(name)
    whole = folder and weight_files(folder) and all((folder / part).is_file() for part in _parts(folder))
    return folder if whole else None


def _check_folder(role: str, folder: Path, unfit: Unfit) -> None:
    if (folder / "adapter_config.json").is_file():
        if lack := _lack_of_weights(folder, "adapter_model.safetensors"):
            raise BadInput(f"{role}: {folder} {lack}")
        check_model(f"{role}: base of the adapter {folder}", base_of(str(folder)))
        return
    reason = _lack(folder, role in NEED_TOKENIZER) or unfit(files.read_json(folder / "config.json"))
    if reason := reason or tied.contradiction(folder, weight_files(folder)):
        raise BadInput(f"{role}: {folder} {reason}")


def _unusable(config: dict[str, Any]) -> str | None:
    """Why a model can't be used as a causal LM, by its config.json, in words that follow its name."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    kind, names = config.get("model_type"), config.get("architectures") or []
    own_code = config.get("auto_map") or {}
    if not isinstance(kind, str) or not _are_texts(names) or not isinstance(own_code, dict):
        return "has a config.json whose model_type, architectures or auto_map is not what it should be"
    known = kind in CONFIG_MAPPING  # then what auto_map names is not needed
    if own_code and (not known or (kind not in CAUSAL and "AutoModelForCausalLM" in own_code)):
        if remote_code.is_allowed():
            return None
        return (
            "needs its own code (auto_map in its config.json), which is run only with "
            "trust_remote_code=true: read it before you set that"
        )
    if not known:
        return f"has the model_type {kind!r}, which is unknown to transformers {transformers.__version__}"
    endings = ("ForCausalLM", "LMHeadModel")
    if any(name.endswith(endings) or name in CAUSAL.values() for name in names):
        return None
    if not names and kind in CAUSAL:
        return None
    says = ", ".join(names) or f"model_type {kind}"
    return f"is not a causal LM: its config.json says {says}"


def _are_texts(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) for name in names)


def check_different(policy: Path, reference: Path) -> None:
    """Raises BadInput where two complete folders hold the same model: every reward would be 0."""
    if policy.resolve() == reference.resolve():
        how = "are the same folder"
    elif _same_weights(policy, reference):
        how = "have the same weights"
    else:
        return
    raise BadInput(f"policy {policy} and reference {reference} {how}: every implicit reward would be 0")


def _same_weights(first: Path, second: Path) -> bool:
    """Whether two folders hold the same weights, by the digests that a run needs of them anyway."""
    ours, theirs = ({path.name: path for path in weight_files(folder)} for folder in (first, second))
    if ours.keys() != theirs.keys() or base_of(str(first)) != base_of(str(second)):
        return False
    return all(file_digest(ours[name]) == file_digest(theirs[name]) for name in sorted(ours))


def weight_files(folder: Path) -> list[Path]:
    """The files with a model's or an adapter's weights, under the names that transformers and PEFT read.

    Where there is none of these they turn to pickles, whatever other safetensors lie beside them.
    """
    names = {"model.safetensors", "adapter_model.safetensors", *_parts(folder)}
    return [folder / name for name in sorted(names) if (folder / name).is_file()]


def only_pickles(name: str) -> str | None:
    """The name of a file with weights of a folder, or of a Hub model in the cache, that has no others."""
    folder = resolve(name) if resolve(name).is_dir() else hub.cached(name)
    if folder is None or weight_files(folder):
        return None
    pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
    return min(pickles, default=None)


def _parts(folder: Path) -> set[str]:
    """The files that a model's index names. Raises BadInput for an index that is none, or names others."""
    path = folder / "model.safetensors.index.json"
    if not os.path.lexists(path):
        return set()
    names = (files.read_json(path) or {}).get("weight_map")
    if not isinstance(names, dict) or not names or not _are_texts([*names.values()]):
        raise BadInput(f"{path}: weight_map must map the names of tensors to those of files")
    for name in names.values():
        if Path(name).name != name:
            raise BadInput(f"{path}: weight_map names {name!r}; it must be a file of the same folder")
    return {*names.values()}


def base_of(name: str) -> str | None:
    """The base model of an adapter (a folder or a Hub id); None for a whole model.

    Raises BadInput for an adapter that doesn't name its base.
    """
    path, config = _adapter_config(name)
    if path is None:
        return None
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise BadInput(f"{path}: base_model_name_or_path is missing; an adapter must name its base")
    if (resolve(base) / "adapter_config.json").is_file():
        raise BadInput(f"{path}: its base {base} is an adapter itself; merge that one into a whole model")
    return str(resolve(base).resolve()) if resolve(base).is_dir() else base


def _adapter_config(name: str) -> tuple[Path | None, dict[str, Any]]:
    """The adapter_config.json of a folder or a Hub id, and what it says; no path where there is none."""
    from transformers.utils import find_adapter_config_file

    folder = resolve(name)
    path = folder / "adapter_config.json" if folder.is_dir() else find_adapter_config_file(name)
    if not path or not os.path.lexists(path):
        return None, {}
    return Path(path), files.read_json(Path(path)) or {}


def alters_base(adapter: str) -> bool:
    """Whether loading an adapter changes its base's own weights, so that switching it off doesn't help.

    Trained biases do, and so do initializations that take something away from the base (PiSSA, OLoRA).
    """
    config = _adapter_config(adapter)[1]
    plain = config.get("init_lora_weights", True) in (True, False, None, "gaussian")
    return not plain or config.get("bias", "none") != "none"


def has_tokenizer(name: str) -> bool:
    """Whether a model comes with a tokenizer, as far as that can be told without the Hub."""
    home = Path(tokenizer_home(name))
    return not home.is_dir() or _has_tokenizer_files(home)


def tokenizer_home(name: str) -> str:
    """Where a model's tokenizer is: an adapter's folder often has none, then it is its base's."""
    base = base_of(name)
    return base if base and not _has_tokenizer_files(resolve(name)) else model_path(name)


def _has_tokenizer_files(folder: Path) -> bool:
    return any((folder / file).is_file() for file in TOKENIZER_FILES)


def _lack(folder: Path, needs_tokenizer: bool) -> str | None:
    """What a checkpoint folder lacks, in words that follow its name; None where it is complete."""
    lack = None
    if not (folder / "config.json").is_file():
        lack = "has no config.json"
    elif "model_type" not in (files.read_json(folder / "config.json") or {}):
        lack = "has a config.json that is not a model's"
    elif needs_tokenizer and not _has_tokenizer_files(folder):
        lack = f"has no tokenizer ({', '.join(TOKENIZER_FILES)})"
    if lack:
        return f"{lack}; it is not a Hugging Face model folder"
    return _lack_of_weights(folder, "model.safetensors")


def _lack_of_weights(folder: Path, single: str) -> str | None:
    """What is wrong with a folder's weights, in words that follow its name; None where they are whole.

    They are the files that an index names, or the `single` one.
    """
    if pickle := only_pickles(str(folder)):
        return ONLY_PICKLES.format(pickle)
    parts = _parts(folder)
    for name in sorted(parts) or [single]:
        if not (folder / name).is_file():
            return f"lacks {name}, which its index names" if parts else f"has no weights ({name})"
        if reason := _unreadable(folder / name):
            return f"has a broken {name} ({reason})"
    return None


def _unreadable(weights: Path) -> str | None:
    """Why a safetensors file can't be opened, from its header and its size; None where it can."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "np"):
            return None
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        return first_line(error)
