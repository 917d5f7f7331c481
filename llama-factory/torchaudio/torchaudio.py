"""Stands in for torchaudio where no build of it runs; scripts/setup.sh installs it there.

LLaMA-Factory imports torchaudio when it starts, and calls it for audio alone. A real torchaudio that is
installed later is found first.
"""


def __getattr__(name: str) -> object:
    raise AttributeError(
        f"torchaudio.{name}: there is a stand-in for torchaudio here; audio needs a real one"
    )
