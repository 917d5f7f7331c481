"""As train.py of llama-factory/src, for a file with a list of trainings."""

import atexit
import sys
import threading
from pathlib import Path

import yaml

import train
from dice.inference import forward

forward.LOGITS_ON_CPU = 1  # so that logits of few tokens come in several chunks, too
over = threading.Event()
atexit.register(train.leave_without_teardown, over)
for config in yaml.safe_load(Path(sys.argv[1]).read_text()):
    train.run(config)
over.set()
