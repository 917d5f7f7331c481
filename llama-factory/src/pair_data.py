"""What differs from upstream in the data: nothing is cut, everything is counted, too little is refused."""

import copy
import sys
from pathlib import Path
from typing import Any

from dice.errors import BadInput, first_line
from dice.models.llamafactory import llamafactory
from dice.run import files


def drop_instead_of_truncating() -> None:
    """Leave out pairs longer than `cutoff_len`.

    Upstream cuts them silently, end-of-turn token included, so that the model is trained on
    responses that never end.
    """
    loader = llamafactory("data.loader")

    class PairProcessor(loader.PairwiseDatasetProcessor):
        def preprocess_dataset(self, examples: dict[str, list]) -> dict[str, list]:
            limit = self.data_args.cutoff_len
            whole = copy.copy(self)
            whole.data_args = copy.copy(self.data_args)
            whole.data_args.cutoff_len = sys.maxsize
            rows = super(PairProcessor, whole).preprocess_dataset(examples)
            pairs = zip(rows["chosen_input_ids"], rows["rejected_input_ids"], strict=True)
            keep = [index for index, pair in enumerate(pairs) if max(map(len, pair)) <= limit]
            return {name: [values[index] for index in keep] for name, values in rows.items()}

    loader.PairwiseDatasetProcessor = PairProcessor


def count_rows() -> None:
    """Write rows.json: how many rows training and validation really use.

    Raises BadInput, before a model is loaded, where they do not fill one batch.
    """
    for stage in ("dpo", "sft", "rm"):
        workflow = llamafactory(f"train.{stage}.workflow")

        def counted(*args: Any, original: Any = workflow.get_dataset, **kwargs: Any) -> dict[str, Any]:
            try:
                data = original(*args, **kwargs)
            except (ValueError, RuntimeError) as error:  # no rows left, validation larger than the data
                raise BadInput(f"the data can't be trained on: {first_line(error)}") from error
            data_args, training_args = args[2:4]
            if data_args.streaming:  # such a set has no length
                return data
            counts = {name: len(data.get(f"{name}_dataset") or ()) for name in ("train", "eval")}
            if training_args.should_save:
                files.write_json(Path(training_args.output_dir) / "rows.json", counts)
            if training_args.do_train:
                _check(counts["train"], data_args, training_args)
            return data

        workflow.get_dataset = counted


def _check(rows: int, data_args: Any, training_args: Any) -> None:
    batch = training_args.train_batch_size * training_args.gradient_accumulation_steps
    batch *= training_args.world_size
    if rows < batch:
        raise BadInput(
            f"{rows} rows of {', '.join(data_args.dataset)} are left to train on after validation, within "
            f"cutoff_len {data_args.cutoff_len}; a batch is {batch}: more data, or a smaller batch"
        )
