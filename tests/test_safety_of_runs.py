"""What docs/safety.md promises of code that a run's recipe.yaml names: it is run where the user says so."""

import pytest

from dice.__main__ import Commands
from dice.errors import BadInput
from dice.recipe.load import load_recipe
from dice.recipe.paths import ROOT
from dice.run.run import create_run


def test_somebody_elses_judge_is_not_run(fake_settings, tmp_path, workers_here, monkeypatch, capsys):
    marker = tmp_path / "ran"
    judge = (ROOT / "tests" / "support" / "judge.py").read_text()
    (tmp_path / "judge.py").write_text(f"{judge}\nopen({str(marker)!r}, 'w')\n")
    run = create_run(load_recipe("tiny", [*fake_settings, f"evaluate.judge={tmp_path}/judge.py:quality"]))
    evaluate = lambda: Commands().evaluate(str(run.path))  # noqa: E731
    told = r"recipe.yaml: evaluate.judge is .*/judge.py:quality: that is code, .* set DICE_TRUST_RUN=1"
    for word in (None, "0"):
        monkeypatch.setenv("DICE_TRUST_RUN", word) if word else monkeypatch.delenv("DICE_TRUST_RUN", False)
        with pytest.raises(BadInput, match=told):
            evaluate()
    assert not marker.exists() and not (run.path / "evaluate").exists()
    monkeypatch.setenv("DICE_TRUST_RUN", "1")
    evaluate()
    first = capsys.readouterr().out
    monkeypatch.delenv("DICE_TRUST_RUN")
    marker.unlink()
    evaluate()  # the same table, of what is done
    assert "done before" in (second := capsys.readouterr().out)
    assert first.splitlines()[-3:] == second.splitlines()[-3:] and "DPO" in second
    (run.path / "evaluate" / "quality" / "DPO.jsonl").write_text("")
    with pytest.raises(BadInput, match=told):
        evaluate()
    assert not marker.exists() and (run.path / "evaluate" / "evaluate.manifest.json").exists()


def test_code_of_a_runs_models_wants_a_word(fake_settings):
    run = create_run(load_recipe("tiny", [*fake_settings, "trust_remote_code=true"]))
    commands, path = Commands(), str(run.path)
    for work in (
        lambda: commands.generate(path, 1),
        lambda: commands.score(path, "1"),
        lambda: commands.train(path, 1),
        lambda: commands.train_rm(path),
        lambda: commands.evaluate(path, benchmark="mt_bench"),
        lambda: commands.report(path),
        lambda: commands.export(path, 1),
    ):
        with pytest.raises(
            BadInput, match="trust_remote_code is true: that is code, .* set DICE_TRUST_RUN=1"
        ):
            work()
    assert [file.name for file in run.path.iterdir() if file.name != ".lock"] == ["recipe.yaml"]
