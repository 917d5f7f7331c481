"""What training makes of preference pairs: LLaMA-Factory's own code, with the recipe's training file."""

import copy
import dataclasses
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dice.data.dataset_dir import write
from dice.models.llamafactory import hush, llamafactory
from dice.run.rows import Preference


def training_rows(
    pairs: Sequence[Preference], tokenizer_home: str, template: str, args: dict[str, Any]
) -> list[tuple[list[int], list[int]]]:
    """(token ids, labels) of the chosen and then the rejected answer of every pair, whatever their length.

    The pairs go through a round's data set and the steps that LLaMA-Factory takes with it. `args` are
    the recipe's; of these the ones about models and data matter.
    """
    hush()
    parameters = llamafactory("hparams")
    model_args = _parse(parameters.ModelArguments, args, model_name_or_path=tokenizer_home)
    data_args = _parse(parameters.DataArguments, args, template=template, dataset="mixed")
    data_args.cutoff_len = sys.maxsize  # longer pairs are dropped, not cut
    tokenizer = llamafactory("model.loader").load_tokenizer(model_args)["tokenizer"]
    processor = llamafactory("data.processor").PairwiseDatasetProcessor(
        template=_template(tokenizer, data_args), tokenizer=tokenizer, processor=None, data_args=data_args
    )
    made = processor.preprocess_dataset(_converted(pairs, data_args))
    sides = (
        zip(made[f"{side}_input_ids"], made[f"{side}_labels"], strict=True) for side in ("chosen", "rejected")
    )
    return [side for pair in zip(*sides, strict=True) for side in pair]


def _parse(kind: type, args: dict[str, Any], **ours: Any) -> Any:
    """LLaMA-Factory's arguments of one kind, ours before the recipe's."""
    names = {spec.name for spec in dataclasses.fields(kind) if spec.init}
    return kind(**{**{name: value for name, value in args.items() if name in names}, **ours})


def _template(tokenizer: Any, data_args: Any) -> Any:
    """The template as training has it; the arguments are written into a copy, not into the registry."""
    registry = llamafactory("data.template")
    kept = registry.TEMPLATES[data_args.template]
    registry.TEMPLATES[data_args.template] = copy.copy(kept)
    try:
        return registry.get_template_and_fix_tokenizer(tokenizer, data_args)
    finally:
        registry.TEMPLATES[data_args.template] = kept


def _converted(pairs: Sequence[Preference], data_args: Any) -> dict[str, list[Any]]:
    """The pairs as columns of LLaMA-Factory's own, out of the files of a round's data set."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), [], pairs)
        rows = json.loads((Path(folder) / "mixed.json").read_text(encoding="utf-8"))
        (attributes,) = llamafactory("data.parser").get_dataset_list(["mixed"], folder)
    converter = llamafactory("data.converter")
    convert = converter.get_dataset_converter(attributes.formatting, attributes, data_args)
    columns: dict[str, list[Any]] = defaultdict(list)
    for row in map(convert, rows):
        for name, value in row.items():
            columns[name].append(value)
    return columns
