"""A recipe of one's own out of a model and preference pairs."""

import json
import shutil
from functools import partial

import pytest
import yaml
from chat_templates import FAMILIES
from commands import run_dice, run_script
from doctored import found

from dice.errors import BadInput
from dice.recipe.load import load_recipe, origin
from dice.recipe.paths import ROOT
from dice.stages.data_checks import check_data, check_enough
from dice.stages.prepare import load
from dice.tools import doctor, plan
from dice.tools.doctor.findings import FAULT, OPEN
from dice.tools.init import make_recipe

PAIRS = [
    {"prompt": f"Tell me of {n} cats.", "chosen": f"There are {n} cats.", "rejected": f"No {n}"}
    for n in range(40)
]


NAMED = {"template": "llama3-custom"}  # to look for it takes a second


@pytest.fixture(scope="module")
def sft(random_model, tmp_path_factory):
    """A random Llama with a chat template."""
    folder = shutil.copytree(random_model, tmp_path_factory.mktemp("models") / "sft")
    (folder / "chat_template.jinja").write_text(FAMILIES["Llama 3"].template)
    return str(folder)


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "some.json"
    path.write_text(json.dumps(PAIRS))
    return str(path)


def made(folder):
    return {name: yaml.safe_load((folder / name).read_text()) for name in ("dice.yaml", "dpo.yaml")}


def test_an_sft_model_alone(sft, pairs, tmp_path, capsys):
    """The template is found, the start is to be made, and the recipe is one that loads."""
    make_recipe(str(tmp_path / "mine"), sft, pairs)
    recipe = load_recipe(str(tmp_path / "mine"))
    assert (recipe.policy, recipe.reference) == (f"{tmp_path}/mine/start", sft)
    assert recipe.template == "llama3-custom"
    start = yaml.safe_load((tmp_path / "mine" / "start.yaml").read_text())
    assert (start["model_name_or_path"], start["dataset_dir"]) == (sft, recipe.dataset_dir)
    assert recipe.prepare == (
        f"python scripts/data/prepare_dpo.py {tmp_path}/mine/start.yaml {tmp_path}/mine/start"
    )
    assert check_data(recipe, "prompts", False, {}) == "40 prompts of pairs"
    assert check_data(recipe, "replay.dataset", False, {}) == "40 pairs of pairs"
    printed, readme = capsys.readouterr().out, (tmp_path / "mine" / "README.md").read_text()
    assert "llama3-custom: by the model's own chat template" in printed and "CPUs are slow" in printed
    for command in ("doctor", "plan", "prepare"):
        assert f"python -m dice {command} {tmp_path}/mine" in printed
        assert f"python -m dice {command} {tmp_path}/mine" in readme
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "some.json"]


def test_a_dpo_model_and_its_sft_model(sft, other_random_model, pairs, tmp_path, capsys):
    """Nothing is to be prepared; prompts of one's own are taken, which need no answers."""
    (tmp_path / "asked.jsonl").write_text('{"instruction": "Why?"}\n{"instruction": "How?"}\n')
    arguments = {"prompts": str(tmp_path / "asked.jsonl"), "gpus": "2xL40S", **NAMED}
    make_recipe(str(tmp_path / "mine"), sft, pairs, reference=str(other_random_model), **arguments)
    recipe = load_recipe(str(tmp_path / "mine"))
    assert (recipe.policy, recipe.reference, recipe.prepare) == (sft, str(other_random_model), None)
    assert check_data(recipe, "prompts", False, {}) == "2 prompts of prompts"
    assert not (tmp_path / "mine" / "start.yaml").exists() and "prepare" not in capsys.readouterr().out
    assert (recipe.generate.samples, recipe.rounds) == (16, 2)


FORMATS = {
    "alpaca": {"instruction": "Hi", "input": "there", "chosen": "a", "rejected": "b"},
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Hi"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "ultrafeedback": {
        "prompt": "Hi",
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "a"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "b"}],
    },
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_of_pairs(sft, name, tmp_path):
    """Each becomes what LLaMA-Factory's ranking format has."""
    rows = [json.dumps(FORMATS[name]).replace("Hi", word) for word in ("Hi", "Two", "Three")]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    make_recipe(str(tmp_path / "mine"), sft, str(tmp_path / "rows.jsonl"), **NAMED)
    row, *_ = json.loads((tmp_path / "mine" / "pairs.json").read_text())
    assert row["messages"][0]["content"] == ("Hi\nthere" if name == "alpaca" else "Hi")
    assert (row["chosen"]["content"], row["rejected"]["content"]) == ("a", "b")


def refused(tmp_path, *arguments, **more):
    """What init refuses leaves nothing behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput) as caught:
        make_recipe(*arguments, **more)
    assert sorted(tmp_path.rglob("*")) == before
    return str(caught.value)


def test_a_folder_that_is_taken(sft, pairs, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "init writes into a new or empty folder" in refused(tmp_path, str(tmp_path / "mine"), sft, pairs)
    assert "letters, digits" in refused(tmp_path, str(tmp_path / "my recipe"), sft, pairs)
    for name in ("tiny", "smollm2/", str(tmp_path / "llama3")):
        assert "comes with DICE" in refused(tmp_path, name, sft, pairs)
    (tmp_path / "file").write_text("")
    assert "can't be made (Not a directory)" in refused(tmp_path, str(tmp_path / "file" / "x"), sft, pairs)


def test_a_model_without_a_chat_template(random_model, pairs, tmp_path):
    told = refused(tmp_path, str(tmp_path / "mine"), str(random_model), pairs)
    assert "has no chat template to compare with" in told and told.endswith("--template=NAME names it")
    told = refused(tmp_path, str(tmp_path / "mine"), str(random_model), pairs, template="foo")
    assert told.startswith("--template: unknown template 'foo'")
    broken = shutil.copytree(random_model, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    told = refused(tmp_path, str(tmp_path / "mine"), str(broken), pairs)
    assert told.startswith("--model: the tokenizer of") and "--template" not in told


@pytest.mark.slow
def test_a_template_that_differs_in_its_default_system_prompt_alone(sft, pairs, tmp_path, capsys):
    """Every template of LLaMA-Factory's llama3 family has none; this model has one."""
    model = shutil.copytree(sft, tmp_path / "model")
    own = FAMILIES["Llama 3"].template
    header = "<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    default = f"{{% if messages[0].role != 'system' %}}{header}{{% endif %}}{{% for m in messages %}}"
    (model / "chat_template.jinja").write_text(own.replace("{% for m in messages %}", default, 1))
    make_recipe(str(tmp_path / "mine"), str(model), pairs)
    assert "llama3-custom: the model's own but for the default system prompt" in capsys.readouterr().out


def test_models_that_are_of_no_use(sft, pairs, tmp_path):
    told = refused(tmp_path, str(tmp_path / "mine"), sft, pairs, reference=sft)
    assert told.startswith("--reference: ") and told.endswith(
        "is --model as well; it is the model before its DPO"
    )
    assert "--model: 'gone' is neither" in refused(tmp_path, str(tmp_path / "mine"), "gone", pairs)
    (tmp_path / "adapter").mkdir()
    config = {"base_model_name_or_path": sft}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    shutil.copy(f"{sft}/model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors")
    told = refused(tmp_path, str(tmp_path / "mine"), str(tmp_path / "adapter"), pairs)
    assert "is an adapter; merge it first: python -m dice export" in told


def test_pairs_of_another_format(sft, tmp_path):
    (tmp_path / "other.jsonl").write_text('{"question": "Hi", "good": "a", "bad": "b"}')
    told = refused(tmp_path, str(tmp_path / "mine"), sft, str(tmp_path / "other.jsonl"), **NAMED)
    assert "other.jsonl:1: no column 'chosen'" in told and "data/dataset_info.json" in told
    told = refused(tmp_path, str(tmp_path / "mine"), sft, "not-registered", **NAMED)
    assert "no data set 'not-registered'; there are: " in told


@pytest.mark.slow
def test_plan_and_doctor_before_the_start_is_made(sft, pairs, tmp_path, capsys):
    """The reference stands in for it: sizes and hours are told, the template is looked at."""
    name = str(tmp_path / "mine")
    make_recipe(name, sft, pairs, **NAMED)
    plan.show_plan(name, [])
    printed = capsys.readouterr().out
    assert "mine/start: `prepare` makes it; until then the reference stands in for it" in printed
    assert "?" not in printed.partition("in all")[2].partition("\n")[0]
    assert found("stand-in", recipe=name).level == OPEN
    for topic in ("fit", "chat template", "memory", "token ids"):
        assert found(topic, recipe=name).level not in (FAULT, OPEN)
    findings = doctor.findings(load(name, []), partial(origin, name, []))
    assert [(f.level, f.what) for f in findings][-1] == (OPEN, "not known before the policy is made")


def test_pairs_are_held_out_where_they_are_enough(sft, tmp_path, capsys):
    """Every tenth of 500 prompts with all of its pairs, on GPUs; none of 499, for 49 tell too little."""
    rows = [{**row, "prompt": f"{n}"} for n in range(500) for row in (PAIRS[1], PAIRS[2])]
    (tmp_path / "many.json").write_text(json.dumps(rows))
    make_recipe(str(tmp_path / "mine"), sft, str(tmp_path / "many.json"), gpus="1xL40S", **NAMED)
    recipe = load_recipe(str(tmp_path / "mine"))
    assert check_data(recipe, "prompts", False, {}).startswith("450 prompts of pairs")
    assert check_data(recipe, "replay.dataset", False, {}) == "900 pairs of pairs"
    assert check_data(recipe, "evaluate.preferences", False, {}) == "100 pairs of held_out_pairs"
    held = {
        row["messages"][0]["content"]
        for row in json.loads((tmp_path / "mine/held_out_pairs.json").read_text())
    }
    assert held == {f"{n}" for n in range(0, 500, 10)}
    told = " ".join(capsys.readouterr().out.split())
    assert "used: 900 pairs, 450 prompts, 100 pairs held out to measure the reward with" in told

    (tmp_path / "many.json").write_text(json.dumps(rows[2:]))
    make_recipe(str(tmp_path / "less"), sft, str(tmp_path / "many.json"), gpus="1xL40S", **NAMED)
    assert load_recipe(str(tmp_path / "less")).evaluate.preferences is None
    assert not (tmp_path / "less" / "held_out_pairs.json").exists()


def test_no_pair_is_held_out_that_a_training_sees(sft, other_random_model, tmp_path):
    """A DPO model that is there has seen the pairs; prompts that rounds ask are trained on."""
    rows = [{**PAIRS[1], "prompt": f"{n}"} for n in range(600)]
    (tmp_path / "many.json").write_text(json.dumps(rows))
    (tmp_path / "asked.json").write_text(json.dumps([{"instruction": f"{n}"} for n in range(0, 600, 10)]))
    names = [str(tmp_path / name) for name in ("mine", "dpo")]
    given = {"gpus": "1xL40S", "prompts": str(tmp_path / "asked.json"), **NAMED}
    make_recipe(names[0], sft, str(tmp_path / "many.json"), **given)
    held = json.loads((tmp_path / "mine" / "held_out_pairs.json").read_text())
    assert len(held) == 54 and not any(int(row["messages"][0]["content"]) % 10 == 0 for row in held)
    make_recipe(names[1], sft, str(tmp_path / "many.json"), reference=str(other_random_model), **given)
    assert load_recipe(names[1]).evaluate.preferences is None


def test_pairs_too_few_to_train_on(sft, tmp_path):
    """One prompt is replayed or sampled, not both; of two, one pair is generated and one replayed."""
    (tmp_path / "one.jsonl").write_text(json.dumps(PAIRS[0]))
    told = refused(tmp_path, str(tmp_path / "mine"), sft, str(tmp_path / "one.jsonl"), **NAMED)
    assert told == (
        "--pairs: 1 prompt with pairs and 1 prompt to sample make 0 pairs a round, less than a batch of 2"
    )
    (tmp_path / "two.json").write_text(json.dumps(PAIRS[:2]))
    make_recipe(str(tmp_path / "mine"), sft, str(tmp_path / "two.json"), **NAMED)
    recipe, counts = load_recipe(str(tmp_path / "mine")), {}
    for key in ("prompts", "replay.dataset"):
        check_data(recipe, key, False, counts)
    assert check_enough(recipe, counts) == "at most 2 pairs a round" and recipe.train.global_batch_size == 2


@pytest.mark.slow
def test_the_whole_way_to_a_round(sft, pairs, tmp_path):
    """The commands that init names make a start and a round; the start is made once."""
    name, results = str(tmp_path / "mine"), f"results_dir={tmp_path / 'results'}"
    assert run_dice("init", name, f"--model={sft}", f"--pairs={pairs}").returncode == 0
    prepared = run_dice("prepare", name, results)
    assert prepared.returncode == 0, prepared.stderr
    assert "trained on 40 pairs" in prepared.stdout and "start.log" in prepared.stdout
    assert not (ROOT / "data" / ".preparing.json").exists()
    # A random model ends few of its answers, so that a round has few pairs.
    overrides = (results, "generate.engine=hf", "train.global_batch_size=2", "report=false")
    loop = run_script("bash", "scripts/run_dice/iter.sh", name, *overrides)
    assert loop.returncode == 0, loop.stdout + loop.stderr
    assert (tmp_path / "results" / "mine" / "round-1" / "model").is_dir()
