"""The engine without a model."""

import pytest

from dice.inference import fake


@pytest.mark.parametrize("exists", [True, False], ids=["on the disk", "named alone"])
def test_a_model_answers_alike_wherever_it_lies(tmp_path, exists):
    """Else a test's figures would hang on its temporary folder's name."""
    models = [tmp_path / folder / "round-1" / "policy" for folder in ("one", "other")]
    for model in models if exists else []:
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}")
    found = {fake.logps(fake.identity(str(model)), [1], [2, 3]).tobytes() for model in models}
    assert len(found) == 1
