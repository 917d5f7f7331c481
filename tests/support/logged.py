"""What loggers have of a run, read back from their files; and what its manifests say, read without DICE.

Figures are {(name, step): [value, ...]}: a value for each time that it was logged.
"""

import json
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Figures = dict[tuple[str, int], list[float]]
AXES = ("round", "global_step")
NO_FIGURES = ("round", "inputs", "recipe", "outputs", "versions", "results")  # keys of a manifest


def told(run: Path) -> Figures:
    """The figures in the manifests and curves of a run that is finished."""
    figures, trained = {}, 0
    for folder in sorted(run.glob("round-*")):
        t = int(folder.name.removeprefix("round-"))
        for path in folder.glob("*.manifest.json"):
            manifest = json.loads(path.read_text())
            kept = {key: value for key, value in manifest.items() if key not in NO_FIGURES}
            figures |= {(name, t): [value] for name, value in _leaves(kept, manifest["stage"])}
        step = trained
        for row in map(json.loads, (folder / "curves.jsonl").open()):
            step = trained + row.pop("step")
            figures |= {(name, step): [value] for name, value in _leaves(row, "curves")}
        trained = step
    for row in json.loads((run / "evaluate" / "evaluate.manifest.json").read_text())["results"]:
        t = {"SFT": -1, "DPO": 0}.get(row["model"]) if "round" not in row["model"] else int(row["model"][6:])
        figures |= {(name, t): [value] for name, value in _leaves(row, "evaluate")}
    return figures


def _leaves(found: dict[str, Any], name: str) -> Iterator[tuple[str, float]]:
    for key, value in found.items():
        below = f"{name}/{key}".replace(" ", "_").replace("%", "").replace(",", "")
        if isinstance(value, dict):
            yield from _leaves(value, below)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield below, value


def of_wandb(folder: Path) -> Figures:
    """From the file of the only offline run, a log in LevelDB's format, of which each record is a message."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    figures = defaultdict(list)
    for content in _records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.WhichOneof("record_type") == "history":
            row = {item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            step = next(row[axis] for axis in AXES if axis in row)
            for name, value in row.items():
                if name not in AXES and not name.startswith(("_", "pairs/")):
                    figures[name, step].append(value)
    return dict(figures)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a log: blocks of 32 KiB, in which parts of records have heads of 7 bytes."""
    place, record = 7, b""  # after wandb's own head
    while place < len(content):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        _, size, kind = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def of_tensorboard(folder: Path) -> Figures:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    figures = defaultdict(list)
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            figures[name, event.step].append(event.value)
    return dict(figures)


def of_mlflow(folder: Path) -> Figures:
    import mlflow

    client = mlflow.MlflowClient((folder / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("dice").experiment_id])
    figures = defaultdict(list)
    for name in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, name):
            figures[name, metric.step].append(metric.value)
    return dict(figures)


READ: dict[str, Callable[[Path], Figures]] = {
    "wandb": of_wandb,
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
}


def require_equal(run: Path, logger: str) -> int:
    """Asserts that a logger has every figure of a finished run, once; returns their number."""
    expected, found = told(run), READ[logger](run / "loggers")
    if logger == "tensorboard":  # which has single precision
        expected = {key: [float(np.float32(value)) for value in values] for key, values in expected.items()}
    assert found == expected
    return len(found)


def pairs_of(run: Path, logger: str, t: int) -> list[list[Any]]:
    """The rows of a round's table of pairs."""
    if logger == "wandb":
        (path,) = (run / "loggers").glob(f"wandb/offline-run-*/files/media/table/pairs/round-{t}_*.json")
    else:
        (path,) = (run / "loggers").glob(f"mlruns/*/*/artifacts/pairs/round-{t}.json")
    return json.loads(path.read_text())["data"]
