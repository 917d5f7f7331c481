"""The one door to LLaMA-Factory: importing it where it would otherwise fail.

LLaMA-Factory imports torchaudio unconditionally. On a CPU-only machine the package index offers
torchaudio only as a CUDA build, which can't load; text-only work never calls it. So where the real
one can't be imported, an empty module takes its place. A torchaudio that works is left alone.
"""

import dataclasses
import importlib
import importlib.machinery
import sys
import types


def llamafactory(module: str) -> types.ModuleType:
    """Import `llamafactory.<module>` (a few seconds, the first time).

    Raises ImportError where LLaMA-Factory is not installed.
    """
    _stand_in_for_torchaudio()
    return importlib.import_module(f"llamafactory.{module}")


def argument_names() -> set[str]:
    """Every argument that a LLaMA-Factory training file may have."""
    hparams = llamafactory("hparams")
    kinds = ("Model", "Data", "Training", "Finetuning", "Generating")
    return {spec.name for kind in kinds for spec in dataclasses.fields(getattr(hparams, f"{kind}Arguments"))}


def _stand_in_for_torchaudio() -> None:
    if "torchaudio" in sys.modules:
        return
    try:
        importlib.import_module("torchaudio")
    except (ImportError, OSError, RuntimeError):
        empty = types.ModuleType("torchaudio", "Stands in for torchaudio, which can't load here.")
        empty.__spec__ = importlib.machinery.ModuleSpec("torchaudio", loader=None)
        sys.modules["torchaudio"] = empty
