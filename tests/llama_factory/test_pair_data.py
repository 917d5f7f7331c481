"""What the data set of a training has beside LLaMA-Factory's columns, row by row."""

from types import SimpleNamespace

import pytest

from dice.models.llamafactory import llamafactory
from dice.run import files
from dice.run.rows import SampledIds, Smoothing, pair_key

pair_data = pytest.importorskip("pair_data")
PAIR = ["yes", "no"]


def turns(role, *texts):
    return [{"role": role, "content": text} for text in texts]


@pytest.mark.slow
def test_rows_that_upstream_drops_leave_the_others_what_is_theirs(tmp_path, monkeypatch):
    """Of four rows, one has no responses (`rejected` was null) and one ends with the assistant."""
    loader, user = llamafactory("data.loader"), "user"
    prompts = [turns(user, "a"), turns(user, "b"), turns(user, "c", "d"), turns(user, "e")]
    answers = [turns("assistant", *texts) for texts in (PAIR, [], PAIR, PAIR)]
    read = [{"_prompt": p, "_response": r, "_system": ""} for p, r in zip(prompts, answers, strict=True)]
    key = pair_key(turns(user, "e"), *PAIR)
    files.write_rows(tmp_path / "ids", [SampledIds(pair_key=key, chosen_ids=[7], rejected_ids=None)])
    files.write_rows(tmp_path / "smoothing", [Smoothing(key, 0.25)])
    monkeypatch.setattr(loader, "_get_merged_dataset", lambda *_: read)
    monkeypatch.setattr(loader, "PairwiseDatasetProcessor", loader.PairwiseDatasetProcessor)
    encode = SimpleNamespace(encode=lambda messages, text, ids: ([1], ids or [2]))
    monkeypatch.setattr(pair_data, "Chat", lambda *_: encode)
    pair_data.encode_as_scored(
        pair_data.Encoding(sampled_ids=tmp_path / "ids", smoothing=tmp_path / "smoothing")
    )
    settings = SimpleNamespace(dataset=["pairs"], max_samples=None, cutoff_len=512)
    assert loader._get_merged_dataset(["pairs"], None, settings) == read
    columns = {name: [row[name] for row in read] for name in read[0]}
    columns |= {name: [None] * 4 for name in ("_tools", "_images", "_videos", "_audios")}
    rows = loader.PairwiseDatasetProcessor(None, None, None, settings).preprocess_dataset(columns)
    assert rows["smoothing"] == [0.0, 0.25] and rows["chosen_input_ids"] == [[1, 2], [1, 7]]
