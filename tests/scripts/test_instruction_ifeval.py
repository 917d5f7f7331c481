"""IFEval: its prompts are read and refused line by line; its scores are the harness's own.

What needs the harness (extra `bench`), NLTK's data or the prompts is skipped without them.
"""

import importlib.util
import json
import random
from statistics import fmean

import pytest

import ifeval
from dice.errors import BadInput
from dice.recipe.keys import ROOT

PROMPTS = ROOT.parent / "shared" / "data" / "ifeval_prompts.jsonl"
ROW = {
    "key": 7,
    "prompt": "Describe tea in lower case, without commas.",
    "instruction_id_list": ["punctuation:no_comma", "change_case:english_lowercase"],
    "kwargs": [{}, {}],
}


def written(path, *lines):
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_prompts_are_read_from_a_file(tmp_path):
    assert ifeval.load_prompts(written(tmp_path / "p.jsonl", json.dumps(ROW))) == [ROW]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '{"prompt": "a"}', json.dumps(ROW | {"kwargs": [{}]}), json.dumps(ROW | {"prompt": None})],
)
def test_a_line_that_is_no_prompt_is_refused_by_its_number(tmp_path, line):
    file = written(tmp_path / "p.jsonl", json.dumps(ROW), line)
    with pytest.raises(BadInput, match="p.jsonl:2: no prompt of IFEval; its keys are key, prompt, "):
        ifeval.load_prompts(file)


def test_prompts_that_cannot_be_had_are_refused(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="none.jsonl: the prompts of IFEval can't be read"):
        ifeval.load_prompts(tmp_path / "none.jsonl")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="IFEval: google/IFEval can't be loaded .*; give its file"):
        ifeval.load_prompts()


def test_without_the_harness_a_sentence_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[bench]'" in ifeval.unavailable()
    with pytest.raises(BadInput, match="lm_eval, which is not installed"):
        ifeval.score([ROW], {ROW["prompt"]: ["tea"]})


@pytest.fixture
def harness():
    if reason := ifeval.unavailable():
        pytest.skip(reason)
    from lm_eval.tasks.ifeval import utils

    return utils


@pytest.mark.slow
def test_scores_by_hand(harness):
    tea, cup = (
        ROW,
        ROW | {"key": 8, "prompt": "No commas, please.", "instruction_id_list": ["punctuation:no_comma"]},
    )
    answers = {
        tea["prompt"]: ["Sure, here:\ntea is a warm drink that many people like to have in the morning"],
        cup["prompt"]: ["No, thanks", "No"],
    }
    # Strict: of three answers the last fulfils all; of the four instructions one is fulfilled. Loose: without
    # its first line the first answer fulfils both of its instructions; "No, thanks" has one line only.
    scores = ifeval.score([tea, cup | {"kwargs": [{}]}], answers)
    assert scores == ifeval.Scores(1 / 3, 1 / 4, 2 / 3, 3 / 4)
    with pytest.raises(BadInput, match="prompt 8 of IFEval and 0 more have no answer"):
        ifeval.score([tea, cup], {tea["prompt"]: ["a"]})


@pytest.mark.slow
@pytest.mark.skipif(not PROMPTS.is_file(), reason=f"{PROMPTS.name} is not beside the checkout")
def test_scores_are_the_harnesss_own_over_all_prompts(harness):
    prompts = ifeval.load_prompts(PROMPTS)
    assert len(prompts) == len({row["prompt"] for row in prompts}) == 541
    # A prompt as its own answer fulfils some instructions; its first sentence in lower case, others.
    said = {row["prompt"]: row["prompt"] for row in prompts[::2]}
    said |= {row["prompt"]: '"' + row["prompt"].split(".")[0].lower() + '"' for row in prompts[1::2]}
    by_hand = []
    for row in prompts:
        random.seed(0)  # for the harness draws a letter to look for where a prompt's is # or !
        by_hand.append(harness.process_results(row, [said[row["prompt"]]]))

    def share(key):
        return fmean(float(verdict) for result in by_hand for verdict in [result[key]])

    def share_of_instructions(key):
        verdicts = [verdict for result in by_hand for verdict in result[key]]
        assert len(verdicts) == 834
        return sum(verdicts) / 834

    scores = ifeval.score(prompts, {prompt: [answer] for prompt, answer in said.items()})
    assert scores.prompt_strict == pytest.approx(share("prompt_level_strict_acc"))
    assert scores.prompt_loose == pytest.approx(share("prompt_level_loose_acc"))
    assert scores.instruction_strict == pytest.approx(share_of_instructions("inst_level_strict_acc"))
    assert scores.instruction_loose == pytest.approx(share_of_instructions("inst_level_loose_acc"))
    assert 0.1 < scores.prompt_strict < scores.prompt_loose < 1  # the two ways are not the same
