"""lm_eval itself, on task files of our own and on IFEval: the figures are those of lm_eval called by hand."""

import importlib.util
import json
import random
import sys

import harness_tasks
import pytest
from adapters import make_adapter
from commands import run_dice, run_script

from dice.errors import BadInput
from dice.models.chat_template import load_tokenizer
from dice.recipe import load
from dice.recipe.paths import ROOT
from dice.run.run import create_run
from dice.tools.benchmarks import evaluation, harness_worker

PROMPTS = ROOT.parent / "shared" / "data" / "ifeval_prompts.jsonl"
TEMPLATE = (
    "{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
BY_HAND = """
import json, sys
import lm_eval
from lm_eval.tasks import TaskManager

asked = json.loads(sys.argv[1])
found = lm_eval.simple_evaluate(task_manager=TaskManager(include_defaults=False), **asked)
said = {task: [row["resps"] for row in rows] for task, rows in found["samples"].items()}
print("FOUND" + json.dumps({"figures": found["results"], "said": said}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="lm_eval is not installed: pip install -e '.[bench]'",
    ),
]
needs_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")


@pytest.fixture
def tasks(tmp_path):
    """The paths of a task to choose in and of one to write answers for."""
    return [str(make(tmp_path)) for make in (harness_tasks.choices, harness_tasks.answers)]


@pytest.fixture
def templated(policy):
    """A random model with a chat template of its own, as most models of the Hub have one."""
    tokenizer = load_tokenizer(str(policy))
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATE, "<|eot_id|>"
    tokenizer.save_pretrained(policy)
    return str(policy)


def evaluate(run, tasks, **given):
    return evaluation.evaluate(run, "lm_eval", evaluation.parse({"tasks": tuple(tasks), **given}))


def by_hand(**asked):
    told = run_script(sys.executable, "-c", BY_HAND, json.dumps(asked))
    assert told.returncode == 0, told.stderr[-2000:]
    return json.loads(told.stdout.partition("FOUND")[2])


def said(run, task, model="DPO"):
    (path,) = run.path.glob(f"benchmarks/lm_eval-{task}/{model}/*/samples.jsonl")
    return [json.loads(line)["resps"] for line in path.read_text().splitlines()]


def check_equal(run, found, hand):
    """Results and what the model said, both as by hand."""
    assert len(found) == len(hand["figures"])
    for result in found:
        task = result.benchmark.removeprefix("lm_eval-")
        figures = hand["figures"][task]
        assert result.parts == {name: figures[f"{name},none"] for name in result.parts}
        assert result.score == figures[f"{result.metric},none"]
        assert result.error == figures[f"{result.metric}_stderr,none"]
        assert said(run, task) == hand["said"][task]


def test_the_fake_engine_is_lm_evals_dummy(fake_run, tasks):
    found = evaluate(fake_run, tasks[:1]) + evaluate(fake_run, tasks[1:])
    # Each by itself, as each is a stage: the dummy's figures are random numbers.
    hands = [by_hand(model="dummy", tasks=[task]) for task in tasks]
    both = {key: hands[0][key] | hands[1][key] for key in hands[0]}
    check_equal(fake_run, found, both)
    choices, answers = found
    assert (choices.metric, choices.judgments, choices.mean_chars) == ("acc", 4, None)
    assert (answers.metric, answers.judgments, answers.mean_chars) == ("has_it", 3, len("lol"))
    assert answers.parts == {"has_it": 1 / 3, "letters": 3.0}  # one of the three wants an o
    assert answers.error == pytest.approx(1 / 3)  # sqrt(1/3) / sqrt(3)
    assert choices.questions_digest != answers.questions_digest


def test_a_real_model_by_hf(settings, templated, tasks):
    run = create_run(load.load_recipe("tiny", [*settings, f"policy={templated}"]))
    found = evaluate(run, tasks, max_new_tokens=9)
    model = {"pretrained": templated, "dtype": "float32", "device": "cpu"}
    hand = by_hand(
        model="hf",
        model_args=model,
        tasks=tasks,
        batch_size=16,  # the recipe's batch_tokens by the model's length
        apply_chat_template=True,
        gen_kwargs={"max_gen_toks": 9},
    )
    check_equal(run, sorted(found, key=lambda result: result.benchmark), hand)
    assert not [*run.path.rglob("loaded")]


@needs_vllm
def test_vllm_and_hf_say_the_same_of_an_adapter(settings, random_model, tasks, tmp_path):
    """The random model has no chat template: both use the recipe's, which training would save with it."""
    adapter, said_by = make_adapter(random_model, tmp_path / "adapter", seed=1), {}
    for engine in ("hf", "vllm"):
        own = [f"policy={adapter}", f"generate.engine={engine}", f"run={engine}"]
        run = create_run(load.load_recipe("tiny", [*settings, *own]))
        evaluate(run, tasks)
        said_by[engine] = [said(run, task) for task in ("little_choices", "little_answers")]
    (choices, answers), (others, same) = said_by.values()
    assert answers == same
    for question, other in zip(choices, others, strict=True):
        for ((logp, _),), ((another, _),) in zip(question, other, strict=True):
            assert logp == pytest.approx(another, abs=1e-3)


def test_answers_as_long_as_the_model_are_refused(settings, tasks):
    run = create_run(load.load_recipe("tiny", settings))
    with pytest.raises(
        BadInput, match="little_answers has answers of up to 4,096 tokens, and DPO takes 4,096"
    ):
        evaluate(run, tasks[1:], max_new_tokens=4096)


@pytest.fixture(scope="module")
def manager():
    from lm_eval.tasks import TaskManager

    return TaskManager()


@pytest.mark.parametrize(
    ("name", "questions", "message"),
    [
        ("ifval", None, "lm_eval has no task 'ifval'; did you mean ifeval?"),
        (
            "gsm8k",
            None,
            "lm_eval can't load gsm8k .*; where it is the Hub's data, give a copy by --questions=FILE",
        ),
        (
            "gsm8k",
            "q.jsonl",
            "gsm8k also shows examples, of its split 'train'; write a task file with `include: ",
        ),
        ("mmlu", "q.jsonl", "mmlu is no task with a file of questions; write a task file for it"),
        ("ifeval", "gone.jsonl", r"lm_eval can't load ifeval \(FileNotFoundError: .*gone.jsonl[^;]*$"),
    ],
)
def test_tasks_that_can_not_be_had(manager, name, questions, message, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(BadInput, match=message):
        harness_worker.load_task(manager, name, questions)


def test_task_files_that_can_not_be_used(tmp_path):
    from lm_eval.tasks import TaskManager

    none = TaskManager(include_defaults=False)
    for changes, message in (
        ({"unsafe_code": True}, "little_answers runs code that models write"),
        ({"output_type": "sing"}, "lm_eval can't load .*answers.yaml"),
    ):
        path = str(harness_tasks.answers(tmp_path, **changes))
        with pytest.raises(BadInput, match=message):
            harness_worker.load_task(none, path, None)
    path = str(harness_tasks.answers(tmp_path))
    (tmp_path / "check.py").write_text("import no_such_package")
    with pytest.raises(BadInput, match="needs the package no_such_package, which is missing"):
        harness_worker.load_task(none, path, None)


def test_a_group_has_a_score_where_it_says_of_what(tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.dummy import DummyLM
    from lm_eval.tasks import TaskManager

    harness_tasks.choices(tmp_path)
    (tmp_path / "more.yaml").write_text("include: choices.yaml\ntask: more_choices\n")
    group = "group: {}\ntask: [little_choices, more_choices]\n"
    (tmp_path / "loose.yaml").write_text(group.format("loose"))
    (tmp_path / "close.yaml").write_text(group.format("close") + "aggregate_metric_list: [{metric: acc}]\n")
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(BadInput, match="loose is no task but several.*: little_choices, more_choices"):
        harness_worker.load_task(manager, "loose", None)
    found = simple_evaluate(DummyLM(), tasks=[harness_worker.load_task(manager, "close", None)], limit=2)
    scores = [found["results"][name]["acc,none"] for name in ("close", "little_choices", "more_choices")]
    assert scores[0] == (scores[1] + scores[2]) / 2


def test_a_complaint_of_the_process_is_one_line(fake_run):
    told = run_dice("evaluate", str(fake_run.path), "--benchmark=lm_eval", "--tasks=ifval")
    assert told.returncode == 2
    assert told.stderr == "error: --tasks: lm_eval has no task 'ifval'; did you mean ifeval?\n"


@pytest.mark.skipif(not PROMPTS.is_file(), reason=f"{PROMPTS.name} is not beside the checkout")
class TestIfeval:
    def test_all_its_prompts(self, fake_run):
        import langdetect

        utils = pytest.importorskip("lm_eval.tasks.ifeval.utils")
        _needs_sentences()
        (result,) = evaluate(fake_run, ["ifeval"], questions=str(PROMPTS))
        langdetect.DetectorFactory.seed = 0
        random.seed(0)  # prompts 1122 and 1129 draw a letter that the answer should have
        rows = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
        hand = [utils.process_results(row, ["lol"]) for row in rows]
        fulfilled = [verdict for row in hand for verdict in row["inst_level_strict_acc"]]
        assert (len(rows), len(fulfilled)) == (541, 834)
        strict = sum(row["prompt_level_strict_acc"] for row in hand) / 541
        assert (result.metric, result.questions) == ("prompt_level_strict_acc", 541)
        assert 0 < strict == pytest.approx(result.score)
        assert result.error == pytest.approx((strict * (1 - strict) / 540) ** 0.5)
        assert result.parts["inst_level_strict_acc"] == pytest.approx(sum(fulfilled) / 834)
        assert "not compared with the task's own" in result.notes[0]

    def test_without_nltks_sentences_a_line_says_how_to_get_them(self, fake_run, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("NLTK_DATA", str(tmp_path))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # the harness would fetch them
        with pytest.raises(BadInput, match="punkt_tab: run python -m nltk.downloader punkt_tab"):
            evaluate(fake_run, ["ifeval"], questions=str(PROMPTS))


def _needs_sentences():
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        pytest.skip("NLTK's punkt_tab is not here: python -m nltk.downloader punkt_tab")
