"""Reward models, really loaded: both kinds of checkpoints, and one that LLaMA-Factory trains here."""

import json
import re
import shutil

import numpy as np
import pytest
from commands import run_dice

from dice.errors import BadInput
from dice.recipe.load import load_recipe
from dice.recipe.paths import ROOT
from dice.rewards import check
from dice.run.run import create_run
from dice.stages import train_reward_model
from dice.stages.order import execute

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")
CHAT = "{% for m in messages %}<|start_header_id|>{{ m.role }}{{ m.content }}<|eot_id|>{% endfor %}"
QUESTION = [{"role": "user", "content": "Name two animals."}]
ANSWERS = ["dog and cat.", "a cow", "dog, " * 20 + "cat and sheep.", "x"]


def load(folder, **options):
    from dice.inference.reward_model import RewardModel
    from dice.inference.scorer import Options

    return RewardModel(str(folder), {"template": "llama3-custom"}, Options(dtype="float32", **options))


@pytest.fixture
def value_model(random_model, tmp_path):
    """A random causal LM with a value head, as LLaMA-Factory leaves it."""
    from safetensors.torch import save_file

    folder = shutil.copytree(random_model, tmp_path / "value")
    generator = torch.Generator().manual_seed(0)
    head = {"weight": torch.randn((1, 96), generator=generator), "bias": torch.tensor([0.5])}
    save_file({f"v_head.summary.{name}": t for name, t in head.items()}, folder / "value_head.safetensors")
    return folder, head


@pytest.fixture
def classifier(random_model, tmp_path):
    """Makes a random Llama that classifies."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    def make(labels=1, chat_template=CHAT, **changes):
        folder = tmp_path / "classifier"
        config = AutoConfig.from_pretrained(random_model, num_labels=labels, **changes)
        torch.manual_seed(3)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(random_model)
        tokenizer.chat_template = chat_template
        tokenizer.save_pretrained(folder)
        return folder

    return make


def test_a_value_head_reads_the_last_hidden_state_of_the_end_of_turn(value_model):
    """Against a plain pass of TRL's: hidden_states[-1] of the last token, in float64."""
    from transformers import AutoModelForCausalLM

    folder, head = value_model
    model = load(folder, batch_tokens=150)
    rows = [model.encode(QUESTION, answer) for answer in ANSWERS]
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    expected = []
    for ids in rows:
        states = plain(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1]
        expected.append(float(states[0, -1] @ head["weight"][0].double()) + 0.5)
    assert model.rewards(rows) == pytest.approx(expected, rel=1e-4)
    text = load_text(folder, rows[1])
    assert text.startswith("<|begin_of_text|>") and text.endswith("a cow<|eot_id|>")


def load_text(folder, ids):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder).decode(ids)


@pytest.mark.parametrize("pad_token_id", [1, None])
def test_a_classifier_is_its_own_forward_pass_whatever_stands_beside_a_row(classifier, pad_token_id):
    """With a padding token (here the end of text as well) and without one, as its author would call it."""
    from transformers import AutoModelForSequenceClassification

    folder = classifier(pad_token_id=pad_token_id)
    model = load(folder)
    rows = [model.encode(QUESTION, answer) for answer in ANSWERS] + [[5, 6, 1]]
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64)
    expected = [float(plain(input_ids=torch.tensor([ids])).logits) for ids in rows]
    assert model.rewards(rows) == pytest.approx(expected, rel=1e-4)
    shown = load_text(folder, rows[1])
    assert (
        shown
        == "<|start_header_id|>userName two animals.<|eot_id|><|start_header_id|>assistanta cow<|eot_id|>"
    )


@pytest.mark.parametrize("name", ["phi3-long", "llama-dynamic"])
def test_a_long_row_leaves_the_rewards_of_others_alone(name, tmp_path, monkeypatch):
    """Beyond 40 tokens their positions are encoded otherwise: rows beside a longer one, and after it."""
    from model_families import make_family

    from dice.inference import reward_model
    from dice.inference.scorer import Options

    monkeypatch.setattr(reward_model, "encoder", lambda *_, **__: None)
    folder = make_family(name, tmp_path, "ForSequenceClassification", num_labels=1)
    short, long, longer = ([int(i) for i in range(3, 3 + n)] for n in (20, 60, 70))
    fresh = [reward_model.RewardModel(folder, {}, Options("float32")).rewards([row]) for row in (short, long)]
    model = reward_model.RewardModel(folder, {}, Options("float32"))
    assert model.rewards([short, long, longer])[:2] == pytest.approx([row[0] for row in fresh], rel=1e-4)
    assert model.rewards([short]) == pytest.approx(fresh[0], rel=1e-4)


def test_without_a_chat_template_the_recipes_is_used(classifier):
    folder = classifier(chat_template=None)
    ids = load(folder).encode(QUESTION, "a cow")
    assert load_text(folder, ids).endswith("<|start_header_id|>assistant<|end_header_id|>\n\na cow<|eot_id|>")


def test_what_is_no_reward_model_is_refused(classifier, random_model, value_model, tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(BadInput, match="has 3 labels; one that gives rewards has a single one"):
        load(classifier(labels=3))
    with pytest.raises(BadInput, match="can't be loaded as a reward model: its weights lack score.weight"):
        load(random_model)
    save_file({"summary": torch.zeros(3)}, value_model[0] / "value_head.safetensors")
    with pytest.raises(
        BadInput, match="value_head.safetensors has summary; wanted are v_head.summary.weight"
    ):
        load(value_model[0])
    (value_model[0] / "value_head.safetensors").write_bytes(b"broken")
    with pytest.raises(BadInput, match="value_head.safetensors can't be read"):
        load(value_model[0])


def test_before_round_1_it_is_known_what_is_a_reward_model(classifier, random_model, value_model, settings):
    def examine(folder):
        wanted = [*settings, "score.reward=reward_model", f"score.reward_model={folder}"]
        return check.examine(load_recipe("tiny", wanted))

    assert "reward model" in examine(value_model[0])
    assert "reward model" in examine(classifier())
    with pytest.raises(BadInput, match="is no reward model: its config.json says LlamaForCausalLM"):
        examine(random_model)
    with pytest.raises(BadInput, match="score.reward_model: 'nowhere/here' is neither a folder"):
        examine("nowhere/here")


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_what_llama_factory_trains_is_read_as_it_was_trained(settings, tmp_path, kind):
    """Rewards by our reader equal those by TRL's own class; training moved them apart."""
    from trl import AutoModelForCausalLMWithValueHead

    changes = ["score.reward=reward_model", "score.reward_args.learning_rate=0.01"]
    changes += ["score.reward_args.num_train_epochs=10", f"train.finetuning_type={kind}"]
    run = create_run(load_recipe("tiny", [*settings, *changes]))
    manifest = execute(train_reward_model.STAGE, run, 0)
    assert manifest.rows_out == 20
    folder = run.path / "reward-model" / "model"
    names = {path.name for path in folder.iterdir()}
    assert {"value_head.safetensors", "tokenizer.json"} <= names
    assert ("adapter_config.json" if kind == "lora" else "model.safetensors") in names
    assert not (run.path / "reward-model" / "train").exists()

    model = load(folder)
    pairs = [json.loads(line) for line in (tmp_path / "data" / "pairs.jsonl").read_text().splitlines()]
    rows = [
        model.encode([{"role": "user", "content": pair["instruction"]}], pair[side])
        for pair in pairs
        for side in ("chosen", "rejected")
    ]
    found = np.array(model.rewards(rows)).reshape(-1, 2)
    assert np.mean(found[:, 0] > found[:, 1]) > 0.9
    if kind == "full":
        theirs = AutoModelForCausalLMWithValueHead.from_pretrained(str(folder)).eval()
        from safetensors.torch import load_file

        theirs.load_state_dict(load_file(folder / "value_head.safetensors"), strict=False)
        with torch.no_grad():
            values = [float(theirs(input_ids=torch.tensor([ids]))[2][0, -1]) for ids in rows]
        assert found.ravel() == pytest.approx(values, rel=1e-4)


@pytest.mark.skipif(
    not (ROOT / "data" / "tiny" / "dpo").exists(),
    reason="the tiny world has not been made here; `iter.sh tiny` makes it",
)
def test_one_trained_on_the_tiny_worlds_pairs_ranks_held_out_ones(tmp_path):
    """The models and the data are those of `iter.sh tiny`. Chance is 50%; no held-out prompt was seen."""
    recipe = load_recipe("tiny", ["score.reward=reward_model", f"results_dir={tmp_path}"])
    run = create_run(recipe.sampling(engine="hf"))
    execute(train_reward_model.STAGE, run, 0)
    shown = run_dice(
        "reward", "tiny_held_out_preferences", "--recipe=tiny",
        "score.reward=reward_model", f"results_dir={tmp_path}",
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    share, error = map(float, re.search(r"agreement +([\d.]+)% ± ([\d.]+)%", shown.stdout).groups())
    assert share - 50 > 4 * error, shown.stdout
