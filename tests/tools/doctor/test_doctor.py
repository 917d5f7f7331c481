"""The doctor as a whole, and on the run: versions, steps, memory, disk."""

import json
import shutil
from functools import partial

import pytest
from doctored import found

from dice.errors import BadInput
from dice.launch import hardware
from dice.recipe.load import origin
from dice.recipe.paths import RECIPES
from dice.stages.prepare import load, prepare_recipe
from dice.tools import doctor
from dice.tools.doctor import run
from dice.tools.doctor.findings import FAULT, FINE, OPEN, WARNING
from dice.tools.plan.budget import budget


@pytest.mark.slow
def test_a_healthy_run(settings, tmp_path):
    """Two random models: nothing is at fault, and nothing is written."""
    loaded = load("tiny", settings)
    before = sorted(tmp_path.rglob("*"))
    findings = list(doctor.findings(loaded, partial(origin, "tiny", settings)))
    assert [finding for finding in findings if finding.level in (FAULT, OPEN)] == []
    # Random models: they end no answer, know nothing of labels, and their EOS is the tokenizer's own.
    assert {f.topic for f in findings if f.level == WARNING} <= {"end of turn", "endings", "rewards"}
    assert len({finding.topic for finding in findings}) == len(findings) == 37
    assert sorted(tmp_path.rglob("*")) == before


def installed(folder, name, version):
    """A package of some version, as far as its metadata tells."""
    (folder / f"{name}-{version}.dist-info").mkdir(parents=True)
    (folder / f"{name}-{version}.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")


def test_versions(settings, tmp_path, monkeypatch):
    assert found("versions", *settings).level == FINE
    installed(tmp_path / "other", "fire", "0.0.1")
    monkeypatch.syspath_prepend(tmp_path / "other")
    run._version.cache_clear()
    finding = found("versions", *settings)
    assert finding.level == WARNING and "fire 0.0.1 (tested: " in finding.what
    installed(tmp_path / "broken", "transformers", "9.0.0")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    run._version.cache_clear()
    finding = found("versions", *settings)
    run._version.cache_clear()
    assert finding.level == FAULT and "llamafactory 0.9.5 needs transformers" in finding.what
    assert "not 9.0.0" in finding.what


@pytest.mark.parametrize(
    ("topic", "level", "override", "told"),
    [
        ("samples", WARNING, "pair.min_samples=8", "8 of a prompt's 8 samples are needed"),
        ("steps", WARNING, "train.num_train_epochs=9", "are 9.0 epochs of 20 pairs"),
        ("steps", FAULT, "train.global_batch_size=32", "20 pairs to train on, less than one batch of 32"),
        ("steps", FAULT, "train.val_size=20", "train.val_size 20 leaves nothing"),
        ("steps", WARNING, "train.warmup_steps=50", "train.warmup_steps 50 of 15 steps"),
        ("memory", WARNING, "policy=some/model-700b", "train needs about"),
        ("memory", OPEN, "policy=some/model", "nothing tells the policy's size"),
        ("disk", FAULT, "policy=some/model-900000b", "are free in"),
        ("downloads", FAULT, "policy=some/model-900000b", "some/model-900000b: about 1,800 TB"),
        ("downloads", OPEN, "policy=some/model", "nothing tells the size of some/model"),
        ("policy", OPEN, "policy=some/model-8b", "not on this machine; a run downloads it (about 16 GB"),
        ("two models", OPEN, "policy=some/model-8b", "not known before both models are on this machine"),
        ("texts", OPEN, "policy=some/model-8b", "there is no tokenizer here"),
        ("rewards", OPEN, "policy=some/model-8b", "some/model-8b is not complete on this machine"),
    ],
)
def test_the_run_as_a_whole(settings, topic, level, override, told):
    finding = found(topic, *settings, override)
    assert (finding.level, told in finding.what) == (level, True), finding


@pytest.mark.parametrize(("share", "level"), [(0.5, FINE), (0.9, WARNING), (1.1, FAULT)])
def test_a_disk_that_is_nearly_full(settings, monkeypatch, share, level):
    """So much of the free disk would be used."""
    need = budget(load("tiny", settings), hardware.find()).disk_to_come
    usage = shutil.disk_usage("/")._replace(free=int(need / share))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    finding = found("disk", *settings)
    assert finding.level == level, finding


def test_results_that_can_not_be_written(settings, tmp_path):
    (tmp_path / "results").write_text("a file")
    finding = found("disk", *settings)
    assert finding.level == FAULT and finding.refused and "no folder that can be written to" in finding.what


@pytest.fixture
def own_recipe(tmp_path):
    """A recipe whose models and data its `prepare` is still to make."""
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(RECIPES / "tiny" / "dpo.yaml", folder)
    text = (RECIPES / "tiny" / "dice.yaml").read_text()
    text = (
        text.replace("data/tiny/", "data/not-made/").replace("tiny_p", "later_p").replace("tiny_h", "later_h")
    )
    text = text.replace(
        "python scripts/tiny/prepare_for.py ${score.reward}", f"touch {tmp_path / 'prepared'}"
    )
    (folder / "dice.yaml").write_text(text)
    names = ("later_prompts", "later_preferences", "later_held_out")
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entries = {name: {"file_name": f"{name}.json", "ranking": True, "columns": columns} for name in names}
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "dataset_info.json").write_text(json.dumps(entries))
    return str(folder)


def test_what_prepare_is_still_to_make(own_recipe, tmp_path, capsys):
    overrides = [f"dataset_dir={tmp_path / 'registry'}", f"results_dir={tmp_path / 'results'}"]
    assert doctor.examine(own_recipe, overrides) == 0
    assert (
        f"`python -m dice prepare {own_recipe} {overrides[0]} {overrides[1]}` makes"
        in capsys.readouterr().out
    )
    for topic in ("prompts", "replay.dataset", "evaluate.prompts", "policy", "reference", "fit"):
        finding = found(topic, *overrides, recipe=own_recipe)
        assert finding.level == OPEN and "not here yet, `prepare` makes it" in finding.what
    other = [*overrides, "policy=data/not-made/x"]
    assert found("policy", *other, recipe=own_recipe).level == FAULT
    assert found("policy", *other, "prepare=make ${policy}", recipe=own_recipe).level == OPEN
    assert not (tmp_path / "prepared").exists() and not (tmp_path / "results").exists()
    prepare_recipe(own_recipe, overrides)
    assert (tmp_path / "prepared").exists() and not (tmp_path / "results").exists()


def test_what_nobody_thought_of(settings):
    """A template of one's own that fails ends one check, not the doctor."""
    from dice.models.llamafactory import llamafactory

    registry = llamafactory("data.template")

    class Failing(registry.Template):
        def encode_oneturn(self, tokenizer, messages, system=None, tools=None):
            if messages[0]["content"] not in ("Hi", "Hi there"):
                raise KeyError("no such turn")
            return super().encode_oneturn(tokenizer, messages, system, tools)

    registry.register_template(name="failing", template_class=Failing)
    try:
        finding = found("token ids", *settings, "template=failing")
    finally:
        del registry.TEMPLATES["failing"]
    assert finding.level == WARNING and "could not be looked at: KeyError: 'no such turn'" in finding.what


@pytest.mark.slow
def test_status(settings, capsys):
    """0 where nothing is at fault, 1 where a run would go wrong, 2 where it would not start."""
    settings = [*settings, "train.num_train_epochs=1"]
    assert doctor.examine("tiny", settings) == 0
    assert "0 faults" in capsys.readouterr().out
    assert doctor.examine("tiny", [*settings, "score.cutoff_len=8"]) == 1
    shown = capsys.readouterr().out
    assert "✗ cutoff" in shown and "→ " in shown and "1 fault" in shown
    with pytest.raises(BadInput, match="train.val_size is 20, but the round has only 20 pairs"):
        doctor.examine("tiny", [*settings, "train.val_size=20"])
    capsys.readouterr()
    with pytest.raises(BadInput, match="unknown template 'x'"):
        doctor.examine("tiny", [*settings, "template=x", "prompts=nope", "reference=tests"])
    shown = capsys.readouterr().out
    assert shown.count("✗") == 3  # template, names, reference: all of them are told
    with pytest.raises(BadInput, match="unknown recipe 'tyni'"):
        doctor.examine("tyni", [])


@pytest.mark.parametrize("name", ["llama3", "zephyr"])
def test_recipes_whose_models_are_not_here(name):
    """They are said to be absent, and the rest is looked at. How full this disk is does not matter."""
    findings = list(doctor.findings(load(name, []), partial(origin, name, [])))
    absent = [finding for finding in findings if "not on this machine; a run downloads it" in finding.what]
    assert [finding.topic for finding in absent] == ["policy", "reference"]
    assert {finding.topic for finding in findings if finding.level == FAULT} <= {"disk", "downloads"}
    assert {"versions", "steps", "memory"} <= {finding.topic for finding in findings}


@pytest.mark.slow
def test_every_fault_and_warning_says_what_to_do(settings):
    overrides = [
        *settings,
        "template=zephyr-custom",
        "pair.min_samples=8",
        "train.val_size=20",
        "score.cutoff_len=60",
    ]
    loaded = load("tiny", overrides)
    bad = [
        f for f in doctor.findings(loaded, partial(origin, "tiny", overrides)) if f.level in (FAULT, WARNING)
    ]
    assert len(bad) >= 4 and all(finding.advice for finding in bad)
