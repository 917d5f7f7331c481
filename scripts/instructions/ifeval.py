"""IFEval: 541 public prompts with checkable instructions, scored by EleutherAI's harness (extra `bench`).

Zhou et al., "Instruction-Following Evaluation for Large Language Models". The checkers are those of
`lm_eval` 0.4.13, unchanged; prompts and constraints are not of this world, so the scores tell whether what
was learned here holds elsewhere. Strict looks at the response as it is; loose also without its first or last
line and without asterisks, and an instruction counts that any of these fulfils.
"""

import importlib.util
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from dice.errors import BadInput, first_line

HUB = ("google/IFEval", "ifeval_input_data.jsonl")
SEED = 0  # so that the same answers get the same scores
KEYS = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}


@dataclass(frozen=True)
class Scores:
    """Shares of prompts whose instructions are all fulfilled, and of instructions, 0 to 1."""

    prompt_strict: float
    instruction_strict: float
    prompt_loose: float
    instruction_loose: float


def load_prompts(file: Path | None = None) -> list[dict[str, Any]]:
    """The prompts with their instructions, of a local jsonl file or, without one, of the Hub.

    Raises BadInput where they can't be had or a line is no prompt of IFEval.
    """
    if file is None:
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(*HUB, repo_type="dataset"))
        except Exception as error:  # of the Hub, the network or the disk
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise BadInput(f"IFEval: {HUB[0]} can't be loaded ({reason}); give its file") from error
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: the prompts of IFEval can't be read ({first_line(error)})") from None
    return [_prompt(file, number, line) for number, line in enumerate(lines, 1)]


def _prompt(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        fits = all(isinstance(row[key], kind) for key, kind in KEYS.items())
        fits = fits and len(row["kwargs"]) == len(row["instruction_id_list"])
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise BadInput(f"{file}:{number}: no prompt of IFEval; its keys are {', '.join(KEYS)}")
    return row


def unavailable() -> str | None:
    """Why responses can't be scored here, or None.

    The harness needs `punkt_tab`, NLTK's data for sentences; it fetches it itself where there is a network.
    """
    if importlib.util.find_spec("lm_eval") is None:
        return "IFEval's checkers are in lm_eval, which is not installed; pip install -e '.[bench]'"
    try:
        _harness()
        import nltk

        nltk.data.find("tokenizers/punkt_tab")
    except ImportError as error:
        return f"IFEval's checkers can't be loaded ({first_line(error)})"
    except LookupError:
        return "IFEval's checkers need NLTK's punkt_tab; run python -m nltk.downloader punkt_tab"
    return None


def score(prompts: Sequence[dict[str, Any]], answers: Mapping[str, Sequence[str]]) -> Scores:
    """The harness's four figures for answers by prompt; with several to a prompt, their mean.

    Raises BadInput where responses can't be scored here, or a prompt has no answer.
    """
    if reason := unavailable():
        raise BadInput(reason)
    if missing := [row["key"] for row in prompts if not answers.get(row["prompt"])]:
        raise BadInput(f"prompt {missing[0]} of IFEval and {len(missing) - 1} more have no answer")
    harness = _harness()
    results = [_verdicts(harness, row, said) for row in prompts for said in answers[row["prompt"]]]

    def shares(way: str) -> tuple[float, float]:
        all_fulfilled = [result[f"prompt_level_{way}_acc"] for result in results]
        fulfilled = [result[f"inst_level_{way}_acc"] for result in results]
        return fmean(all_fulfilled), harness.agg_inst_level_acc(fulfilled)

    return Scores(*shares("strict"), *shares("loose"))


def _verdicts(harness: Any, row: dict[str, Any], said: str) -> dict[str, Any]:
    """The harness's verdicts on one answer. In prompts 1122 and 1129 it draws a letter that it looks for."""
    state = random.getstate()
    random.seed(SEED)
    try:
        return harness.process_results(row, [said])
    finally:
        random.setstate(state)


def _harness() -> Any:
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = SEED  # or a language is guessed anew each time
    return utils
