"""As train.py of llama-factory/src, for a file with a list of trainings."""

import sys
from pathlib import Path

import yaml

import train
from dice.inference import forward

forward.LOGITS_ON_CPU = 1  # so that logits of few tokens come in several chunks, too
for config in yaml.safe_load(Path(sys.argv[1]).read_text()):
    train.run(config)
