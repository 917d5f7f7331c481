"""What differs from upstream in the data.

Pairs become the token ids that were sampled and scored, nothing is cut, everything is counted, and too little
is refused.
"""

import copy
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dice.errors import BadInput, first_line
from dice.launch import devices
from dice.models.encoding import Chat, TemplateIds
from dice.models.llamafactory import llamafactory
from dice.models.reference_table import IGNORED
from dice.models.trainer import batch_sizes
from dice.run import files
from dice.run.rows import Message, SampledIds, Smoothing, pair_key

CPU_TOKENS = 1024  # at once, on average: more are hardly faster on a CPU, and take more memory


@dataclass(frozen=True)
class Encoding:
    """The part of a training file that says how pairs become token ids; the keys are those of a recipe."""

    template_ids: TemplateIds = "whole"
    special_tokens_in_text: bool = False
    sampled_ids: Path | None = None  # of responses whose texts would become other tokens
    smoothing: Path | None = None  # of pairs' labels; rows that it does not name get none


def encode_as_scored(encoding: Encoding) -> None:
    """Give pairs the token ids that their responses were sampled as and scored on.

    Pairs longer than `cutoff_len` are left out. Upstream cuts them silently, end-of-turn token included, so
    that the model is trained on responses that never end. Raises BadInput for `sampled_ids` that are none.
    """
    loader, sampled = llamafactory("data.loader"), _read_sampled(encoding.sampled_ids)
    smoothing = _read_smoothing(encoding.smoothing)

    class PairProcessor(loader.PairwiseDatasetProcessor):
        def preprocess_dataset(self, examples: dict[str, list]) -> dict[str, list]:
            limit = self.data_args.cutoff_len
            whole = copy.copy(self)
            whole.data_args = copy.copy(self.data_args)
            whole.data_args.cutoff_len = sys.maxsize
            whole.chat = Chat(
                self.tokenizer, self.template, encoding.template_ids, encoding.special_tokens_in_text
            )
            rows = super(PairProcessor, whole).preprocess_dataset(examples)
            if encoding.smoothing:
                read = (dict(zip(examples, row, strict=True)) for row in zip(*examples.values(), strict=True))
                rows["smoothing"] = [smoothing.get(key, 0.0) for key in _keys(read)]
            pairs = zip(rows["chosen_input_ids"], rows["rejected_input_ids"], strict=True)
            keep = [index for index, pair in enumerate(pairs) if max(map(len, pair)) <= limit]
            return {name: [values[index] for index in keep] for name, values in rows.items()}

        def _encode_data_example(
            self, prompt: list[Message], response: list[Message], system: str | None, tools: Any, *media: Any,
            **named_media: Any,
        ) -> tuple[list[int], ...]:  # fmt: skip
            """Input ids and labels of chosen and rejected. Tools and media are upstream's matter."""
            if tools or any(media) or any(named_media.values()):
                return super()._encode_data_example(prompt, response, system, tools, *media, **named_media)
            messages, texts = _messages(prompt, system), [turn["content"] for turn in response]
            found: list[list[int]] = []
            for text, ids in zip(texts, sampled.get(pair_key(messages, *texts), (None, None)), strict=True):
                prompt_ids, response_ids = self.chat.encode(messages, text, ids)
                found.append([*prompt_ids, *response_ids])
                found.append([IGNORED] * len(prompt_ids) + response_ids)
            return tuple(found)

    loader.PairwiseDatasetProcessor = PairProcessor

    def merged(names: Any, model_args: Any, data_args: Any, *others: Any, **named: Any) -> Any:
        data = merge(names, model_args, data_args, *others, **named)
        if sampled and names == data_args.dataset and data_args.max_samples is None:
            _refuse_others_ids(encoding.sampled_ids, sampled.keys() - _keys(data), len(sampled), names)
        return data

    merge, loader._get_merged_dataset = loader._get_merged_dataset, merged


def _keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The `pair_key` of each row as LLaMA-Factory has read it, but for those that it drops with a warning."""
    return [
        pair_key(_messages(row["_prompt"], row["_system"]), *(turn["content"] for turn in row["_response"]))
        for row in rows
        if len(row["_prompt"]) % 2 == 1 and len(row["_response"]) >= 2
    ]


def _messages(prompt: list[Message], system: str | None) -> list[Message]:
    messages = [Message(role="system", content=system)] if system else []
    return messages + [Message(role=turn["role"], content=turn["content"]) for turn in prompt]


def _refuse_others_ids(path: Path | None, missing: set[str], count: int, names: list[str]) -> None:
    """Raises BadInput where token ids belong to pairs that the data set doesn't have."""
    if missing:
        raise BadInput(
            f"{path}: {len(missing):,} of its {count:,} rows are of no pair of {', '.join(names)}; "
            "both must come from one `dice pair`"
        )


def _read_sampled(path: Path | None) -> dict[str, tuple[list[int] | None, list[int] | None]]:
    rows = files.read_rows(path, SampledIds) if path else ()
    return {row.pair_key: (row.chosen_ids, row.rejected_ids) for row in rows}


def _read_smoothing(path: Path | None) -> dict[str, float]:
    return {row.pair_key: row.smoothing for row in files.read_rows(path, Smoothing)} if path else {}


def count_rows(pack_tokens: str | int = "off", means_over_batch: bool = False) -> None:
    """Write rows.json: how many rows training and validation really use.

    With a budget of tokens, a device's batch has as many pairs as the budget holds. On a CPU `auto` is a
    budget, too, unless the loss has `means_over_batch`. Raises BadInput, before a model is loaded, where the
    rows do not fill one batch, or a pair does not fit the budget.
    """
    on_cpu = pack_tokens == "auto" and not means_over_batch and not devices.gpu_count()
    for stage in ("dpo", "sft", "rm"):
        workflow = llamafactory(f"train.{stage}.workflow")

        def counted(
            *args: Any, original: Any = workflow.get_dataset, fits: bool = stage == "dpo", **kwargs: Any
        ) -> dict[str, Any]:
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
                if fits and (on_cpu or isinstance(pack_tokens, int)):
                    _fit_batches(training_args, data["train_dataset"], pack_tokens)
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


def _fit_batches(training_args: Any, pairs: Any, pack_tokens: str | int) -> None:
    """Set a device's batch to as many pairs as a budget of tokens holds, whichever they are.

    The pairs of an optimizer step stay as many as they were. `auto` makes no batch larger, and goes by the
    mean length of pairs.
    """
    lengths = list(map(_tokens, pairs["chosen_labels"], pairs["rejected_labels"]))
    longest, mean = max(lengths), sum(lengths) / len(lengths)
    most = training_args.per_device_train_batch_size
    share = most * training_args.gradient_accumulation_steps
    if pack_tokens == "auto":
        fitting = min(most, max(1, int(CPU_TOKENS / mean)))
    elif longest <= pack_tokens:
        fitting = pack_tokens // longest
    else:
        raise BadInput(
            f"pack_tokens is {pack_tokens}, but a pair has {longest} tokens; raise it, or lower cutoff_len"
        )
    size, steps = batch_sizes(share, fitting, 1)
    training_args.per_device_train_batch_size, training_args.gradient_accumulation_steps = size, steps
    if training_args.deepspeed:  # has taken the sizes from the arguments
        deepspeed = training_args.hf_deepspeed_config.config
        deepspeed["train_micro_batch_size_per_gpu"] = size
        deepspeed["gradient_accumulation_steps"] = steps
    told = f"the longest pair has {longest:,} tokens, the mean is {mean:,.0f}"
    print(f"batches of {size} pairs, {steps} for a step: {told}", flush=True)


def _tokens(chosen: list[int], rejected: list[int]) -> int:
    """Tokens of a pair by its labels: its prompt once, and its two responses."""
    return len(chosen) + len(rejected) - sum(label == IGNORED for label in rejected)
