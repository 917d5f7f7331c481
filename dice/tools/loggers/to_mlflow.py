"""MLflow: the server or folder of MLFLOW_TRACKING_URI, else `mlruns/` beside the other loggers' files."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import mlflow
from mlflow.entities import Metric, Param, Run, RunTag

from dice.recipe.keys import Recipe
from dice.tools.loggers.entries import COLUMNS, Entry, table
from dice.tools.loggers.ledger import ordered

OURS, COUNT = "dice.id", "dice.entries"  # tags: our id, and how many entries the run has
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # by default a server that is away is waited for, for minutes
    "MLFLOW_ALLOW_FILE_STORE": "true",  # MLflow 3 writes to a folder only where this is set
}


def send(recipe: Recipe, entries: Sequence[Entry], folder: Path) -> None:
    """Send the entries that our run does not have. Raises what mlflow raises where it can't be reached."""
    name, rows = ordered(folder / "mlflow.json", entries)
    os.environ |= ENVIRONMENT | os.environ  # the user's own word wins
    client = mlflow.MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", (folder / "mlruns").as_uri()))
    run = _run(client, recipe, name)
    ours, now = run.info.run_id, round(time.time() * 1000)
    for number in range(int(run.data.tags.get(COUNT, 0)), len(rows)):
        entry, path = rows[number], f"pairs/round-{rows[number].step}.json"
        if entry.pairs and path not in [file.path for file in client.list_artifacts(ours, "pairs")]:
            columns = zip(COLUMNS, zip(*table(entry.pairs), strict=True), strict=True)
            client.log_table(ours, {name: [*values] for name, values in columns}, path)
        metrics = [Metric(key, value, now, entry.step) for key, value in entry.figures.items()]
        client.log_batch(ours, metrics, tags=[RunTag(COUNT, str(number + 1))])
    client.set_terminated(ours)


def _run(client: mlflow.MlflowClient, recipe: Recipe, name: str) -> Run:
    """Our run, which is made where there is none."""
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dice")
    experiment = client.get_experiment_by_name(project)
    home = experiment.experiment_id if experiment else client.create_experiment(project)
    if found := client.search_runs([home], f"tags.`{OURS}` = '{name}'"):
        return found[0]
    run = client.create_run(home, tags={OURS: name}, run_name=recipe.run)
    params = [Param(key, str(value)[:6000]) for key, value in recipe.model_dump().items()]
    client.log_batch(run.info.run_id, params=params)
    return run
