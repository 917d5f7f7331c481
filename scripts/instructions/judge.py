"""The judge of a recipe's evaluation: `evaluate.judge: scripts/instructions/judge.py:quality`.

An evaluation loads this file alone, so the files beside it are made known here.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
from quality import quality  # noqa: E402, F401
