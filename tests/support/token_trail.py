"""Where sampled token ids go: what an engine took, what was scored, what the trainer sees."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import run_script
from trainings import PATH

from dice.inference.sampler import Sampled
from dice.launch import processes
from dice.launch.worker import Worker
from dice.models.chat_template import load_chat
from dice.models.reference_table import response_hash
from dice.run import files
from dice.run.rows import Pair, Prompt, Score
from dice.run.run import Run
from dice.stages import generate, pair, score, train
from dice.stages.order import execute

Row = tuple[tuple[int, ...], int]  # token ids of a prompt and a response, and where the response begins


def row_of(prompt_ids: list[int], response_ids: list[int]) -> Row:
    return tuple(prompt_ids + response_ids), len(prompt_ids)


class Trail:
    """Round 1 of a run up to its pairs, in this process, with a record of what the engine gave."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.folder = run, run.round_dir(1)
        self.sampled: dict[tuple[str, int], Sampled] = {}
        load_sampler = generate.load_sampler
        monkeypatch.setattr(generate, "load_sampler", lambda engine: self._recording(load_sampler(engine)))
        monkeypatch.setattr(processes, "run_workers", self._work)
        for stage in (generate.STAGE, score.STAGE, pair.STAGE):
            execute(stage, run, 1)
        self.chat = load_chat(run.policy(1), **run.recipe.encoding)
        self.prompts = {row.prompt_id: row.messages for row in self._rows("prompts.jsonl", Prompt)}
        self.pairs = self._rows("pairs.jsonl", Pair)

    def scored(self) -> tuple[int, int]:
        """How many scores there are, and how many of them are of exactly the ids that were sampled."""
        scores = [
            row for path in files.shards(self.folder / "scores") for row in files.read_rows(path, Score)
        ]
        exact = sum(row.ids_hash == response_hash(*self._ids(row.prompt_id, row.sample)) for row in scores)
        return len(scores), exact

    def paired(self) -> Counter[Row]:
        """The responses of the pairs, as they were sampled."""
        return Counter(
            row_of(*self._ids(pair.prompt_id, sample))
            for pair in self.pairs
            for sample in (pair.chosen_sample, pair.rejected_sample)
        )

    def trained_on(self) -> Counter[Row]:
        """The rows that the trainer sees, offline pairs among them."""
        config, rows = self.folder / "config.json", self.folder / "rows.json"
        config.write_text(json.dumps(train.round_config(self.run, 1) | {"only_last_checkpoint": True}))
        script = Path(__file__).with_name("trainer_rows.py")
        result = run_script(sys.executable, str(script), str(config), str(rows), PYTHONPATH=PATH)
        assert result.returncode == 0, result.stderr[-3000:]
        return Counter((tuple(ids), begins) for ids, begins in json.loads(rows.read_text()))

    def _ids(self, prompt_id: str, sample: int) -> tuple[list[int], list[int]]:
        return self.chat.encode_prompt(self.prompts[prompt_id]), self.sampled[prompt_id, sample].response_ids

    def _rows(self, name: str, kind: type) -> list:
        return list(files.read_rows(self.folder / name, kind))

    def _recording(self, make: type) -> type:
        sampled = self.sampled

        class Recording(make):
            def sample(self, requests):
                for one in super().sample(requests):
                    sampled[one.prompt_id, one.sample] = one
                    yield one

        return Recording

    def _work(self, module: str, folder: Path, arguments: list[str], *others: object) -> None:
        """As `run_workers`, in this process."""
        worker = Worker(0, 1, 0, folder / f"{module.rpartition('.')[2]}.progress")
        worker.progress.mkdir(exist_ok=True)
        importlib.import_module(module).work(worker, *arguments)
