"""Which checkpoint a killed training goes on from."""

import json

import pytest

from dice.errors import BadInput
from dice.models import trainer


def checkpoint(work, step, processes=2):
    folder = work / f"checkpoint-{step}"
    (folder / "global_step").mkdir(parents=True)
    (folder / "model.safetensors").write_text("weights")
    (folder / "global_step" / "part.pt").write_text("optimizer")
    trainer.mark_complete(folder, "policy", processes)
    return folder


def test_the_last_complete_one_and_nothing_else_stays(tmp_path):
    checkpoint(tmp_path, 9)
    (tmp_path / "checkpoint-best").mkdir()
    trainer.remove_earlier(checkpoint(tmp_path, 10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-best"]
    (tmp_path / "checkpoint-11").mkdir()  # killed while it was written
    (tmp_path / "checkpoint-11" / "model.safetensors").write_text("half")
    (tmp_path / "trainer_log.jsonl").write_text("{}")
    assert trainer.last_complete(tmp_path) == tmp_path / "checkpoint-10"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]


def test_a_file_that_is_missing_or_shorter_makes_it_useless(tmp_path):
    first = checkpoint(tmp_path / "a", 5)
    (first / "global_step" / "part.pt").unlink()
    assert trainer.last_complete(tmp_path / "a") is None and not first.exists()
    second = checkpoint(tmp_path / "b", 5)
    (second / "model.safetensors").write_text("weig")
    assert trainer.last_complete(tmp_path / "b") is None


def test_one_that_belongs_to_another_number_of_processes(tmp_path):
    """It is not thrown away: the number can be had again."""
    made = checkpoint(tmp_path, 5)
    trainer.check_processes(tmp_path, 2)
    with pytest.raises(BadInput, match="checkpoint-5 is of a training with 2 .* here are 4: go on"):
        trainer.check_processes(tmp_path, 4)
    assert trainer.last_complete(tmp_path) == made
    trainer.check_processes(tmp_path / "never", 4)


def test_nothing_to_go_on_from(tmp_path):
    assert trainer.last_complete(tmp_path / "never") is None


@pytest.mark.parametrize(
    "facts", ["{}", "[]", '{"files": 3}', '{"files": {"../a": 7, "model.safetensors": 7}}']
)
def test_a_marker_that_is_none_makes_it_useless(tmp_path, facts):
    made = checkpoint(tmp_path / "work", 5)
    (tmp_path / "work" / "a").write_text("outside")
    (made / trainer.COMPLETE).write_text(facts)
    assert trainer.last_complete(tmp_path / "work") is None


def test_a_marker_without_the_number_of_processes(tmp_path):
    made = checkpoint(tmp_path, 5)
    marker = json.loads((made / trainer.COMPLETE).read_text())
    (made / trainer.COMPLETE).write_text(json.dumps({"files": marker["files"]}))
    with pytest.raises(BadInput, match="with None processes"):
        trainer.check_processes(tmp_path, 2)
