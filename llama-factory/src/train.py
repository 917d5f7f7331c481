"""LLaMA-Factory's trainer with DICE's delta: the torchrun target of every training run.

    torchrun --nproc_per_node 8 llama-factory/src/train.py config.yaml [key=value ...]

`llamafactory-cli train` starts its own file under torchrun, so templates registered beforehand
would be gone in the workers; this file registers them in each worker, then hands over to
LLaMA-Factory's `run_exp`, which reads the same arguments. llama-factory/README.md lists what differs
from upstream, and why.
"""

import copy
import json
import sys
from pathlib import Path
from typing import Any

from dice.chat import register_templates
from dice.launch import die_with_parent
from dice.upstream import llamafactory


def count_rows() -> None:
    """Write rows.json: how many rows training and validation really use."""
    for stage in ("dpo", "sft"):
        workflow = llamafactory(f"train.{stage}.workflow")

        def counted(*args: Any, original: Any = workflow.get_dataset, **kwargs: Any) -> dict[str, Any]:
            data = original(*args, **kwargs)
            training_args = kwargs.get("training_args") or args[3]
            counts = {name: len(data.get(f"{name}_dataset") or ()) for name in ("train", "eval")}
            if training_args.should_save:
                output = Path(training_args.output_dir)
                output.mkdir(parents=True, exist_ok=True)
                (output / "rows.json").write_text(json.dumps(counts))
            return data

        workflow.get_dataset = counted


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


def main() -> None:
    die_with_parent()
    register_templates()
    drop_instead_of_truncating()
    count_rows()
    llamafactory("train.tuner").run_exp()


if __name__ == "__main__":
    main()
