"""A round's data sets: registered where users keep theirs, and read by LLaMA-Factory with every row kept."""

import json
import stat
import sys

import pytest
from commands import run_script
from fake_world import write_manifest

from dice.data.dataset_dir import check_names_free, register, register_round, write
from dice.data.prompts_and_preferences import read_preferences
from dice.errors import BadInput
from dice.run.rows import Pair, Preference
from dice.run.run import Run
from dice.stages.data_checks import check_names

MESSAGES = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "More"},
]


def a_pair(number: int) -> Pair:
    messages = MESSAGES if number % 2 else MESSAGES[1:2]
    return Pair(str(number), messages, f"good {number}", "bad", 0, 1, 2.0, 1.0, 2.0, 1.0)


@pytest.fixture
def round_dir(fake_run):
    """A round with five generated pairs, and a mixture with three offline ones."""
    folder, pairs = fake_run.round_dir(1), [a_pair(number) for number in range(5)]
    offline = [Preference(str(number), MESSAGES, "yes", "no") for number in range(3)]
    write(folder / "dataset", pairs, [*pairs, *offline])
    write_manifest(folder, "pair")
    return folder


USERS = """{
    "mine":  {"file_name":"mine.json", "columns": {"prompt": "q"}},

    "caf\\u00e9": {"hf_hub_url": "a/b"}
}
"""


def test_a_round_is_registered_and_nothing_else_is_touched(round_dir, data_dir):
    users = data_dir / "dataset_info.json"
    users.write_text(USERS)
    users.chmod(0o640)
    register(str(round_dir), "my_round")
    text = users.read_text()
    assert text.startswith(USERS.rstrip("}\n").rstrip()) and text.endswith("}\n")
    assert '\n    "my_round": {\n        "file_name"' in text  # indented as the rest
    assert stat.S_IMODE(users.stat().st_mode) == 0o640
    entries = json.loads(text)
    assert list(entries) == ["mine", "café", "my_round"]
    pairs, dropped = read_preferences(str(data_dir), "my_round")
    assert len(pairs) == 5 and not dropped
    assert (pairs[1].messages, pairs[1].chosen) == (MESSAGES, "good 1")

    register(str(round_dir), "my_round")  # once more: nothing to do
    assert users.read_text() == text
    register(str(round_dir), "mixed", mixed=True)
    assert len(read_preferences(str(data_dir), "mixed")[0]) == 8


def test_a_name_that_is_taken(round_dir, data_dir):
    before = (data_dir / "dataset_info.json").read_bytes()
    with pytest.raises(BadInput, match="there is another data set 'some_pairs' already; give another name"):
        register(str(round_dir), "some_pairs")
    with pytest.raises(BadInput, match="'a,b' is no name of a data set: it has a space, a comma"):
        register(str(round_dir), "a,b")
    assert (data_dir / "dataset_info.json").read_bytes() == before


def test_a_round_without_pairs(fake_run):
    with pytest.raises(BadInput, match="no finished pairs here; give a round's folder, results/RUN/round-N"):
        register(str(fake_run.path), "it")
    with pytest.raises(BadInput, match="nowhere: no finished pairs here"):
        register("nowhere", "it")


def test_force_replaces_an_entry_of_the_same_round_only(round_dir, data_dir):
    users = data_dir / "dataset_info.json"
    register(str(round_dir), "mine")
    with pytest.raises(BadInput, match="'mine' is another entry of this round; --force replaces it"):
        register(str(round_dir), "mine", mixed=True)
    register(str(round_dir), "mine", mixed=True, force=True)
    assert len(read_preferences(str(data_dir), "mine")[0]) == 8
    before = users.read_bytes()
    with pytest.raises(BadInput, match="there is another data set 'some_pairs' already"):
        register(str(round_dir), "some_pairs", force=True)
    assert users.read_bytes() == before


def test_a_recipe_registers_its_rounds(fake_run, round_dir, data_dir, capsys):
    wishing = Run(fake_run.path, fake_run.recipe.model_copy(update={"register": "mine"}))
    before = (data_dir / "dataset_info.json").read_bytes()
    register_round(fake_run, 1, force=False)
    assert (data_dir / "dataset_info.json").read_bytes() == before
    register_round(wishing, 1, force=False)
    register_round(wishing, 1, force=False)  # the loop was killed and goes on
    assert len(read_preferences(str(data_dir), "mine_1")[0]) == 5
    assert [line.split(":")[1].split()[0] for line in capsys.readouterr().out.splitlines()] == ["added", "in"]
    check_names_free(wishing.recipe)


def test_another_runs_names_are_known_before_round_1(fake_run, data_dir):
    wishing = fake_run.recipe.model_copy(update={"register": "other"})
    registry = data_dir / "dataset_info.json"
    entry = {"file_name": "../results/other/round-2/dataset/dataset.json"}
    registry.write_text(json.dumps(json.loads(registry.read_text()) | {"other_2": entry}))
    with pytest.raises(BadInput, match="register: .* there is another data set 'other_2' already"):
        check_names(wishing)
    with pytest.raises(BadInput, match="register: 'a b_1' is no name of a data set: it has a space"):
        check_names(wishing.model_copy(update={"register": "a b"}))


@pytest.mark.slow
def test_the_command(round_dir, data_dir):
    command = (sys.executable, "-m", "dice", "register", str(round_dir))
    done = run_script(*command, "--name", "my_round")
    assert done.returncode == 0 and "my_round: added to" in done.stdout, done.stderr
    assert "my_round: in" in run_script(*command, "--name=my_round").stdout
    taken = run_script(*command, "--name", "some_prompts")
    assert taken.returncode == 2 and taken.stderr.startswith("error: ") and taken.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dataset", "mixed"])
def test_llama_factory_keeps_every_row(round_dir, random_model, tmp_path, name):
    """Through its whole data pipeline, up to token ids."""
    from dice.models import chat_template
    from dice.models.llamafactory import llamafactory

    hparams, loaded = llamafactory("hparams"), chat_template.load_chat(str(random_model), "llama3-custom")
    data_args = hparams.DataArguments(
        dataset=name, dataset_dir=str(round_dir / "dataset"), template="llama3-custom", cutoff_len=512
    )
    data = llamafactory("data.loader").get_dataset(
        loaded.template,
        hparams.ModelArguments(model_name_or_path=str(random_model), cache_dir=str(tmp_path / "cache")),
        data_args,
        hparams.TrainingArguments(output_dir=str(tmp_path / "out")),
        stage="rm",
        tokenizer=loaded.tokenizer,
    )["train_dataset"]
    rows = json.loads((round_dir / "dataset" / f"{name}.json").read_text())
    assert len(data) == len(rows) == {"dataset": 5, "mixed": 8}[name]
    for row, encoded in zip(rows, data, strict=True):
        prompt, chosen = loaded.encode(row["messages"], row["chosen"]["content"])
        assert encoded["chosen_input_ids"] == [*prompt, *chosen]


@pytest.mark.slow
def test_trl_takes_its_format(round_dir, random_model, tmp_path):
    """As TRL's own preparation does it: the chat template is applied to prompt, chosen and rejected."""
    from datasets import load_dataset
    from trl import apply_chat_template, is_conversational

    from dice.models import chat_template

    write(tmp_path, [a_pair(1)], [a_pair(1)], trl=True)
    file = str(tmp_path / "trl" / "dataset.json")
    (row,) = load_dataset("json", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert is_conversational(row)
    tokenizer = chat_template.load_chat(str(random_model), "llama3-custom").tokenizer
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    applied = apply_chat_template(row, tokenizer)
    assert applied["prompt"] == "<system>Be kind.<user>Hi<assistant>Hello<user>More"
    assert (applied["chosen"], applied["rejected"]) == ("<assistant>good 1", "<assistant>bad")
