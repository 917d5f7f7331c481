"""LLaMA-Factory's trainer with DICE's delta: the torchrun target of every training run.

    torchrun --nproc_per_node 8 llama-factory/src/train.py config.yaml [key=value ...]

`llamafactory-cli train` starts its own file under torchrun, so templates registered beforehand
would be gone in the workers; this file registers them in each worker, then hands over to
LLaMA-Factory's `run_exp` with the same arguments. Some keys are DICE's own:

    reference_logps: table   DPO against the policy itself, without a second model in memory
                     model   the same with LLaMA-Factory's own reference
                             (without the key: LLaMA-Factory's own, unchecked)
    reference_table: FILE    reference log-probs that are known beforehand (dice/models/reference_table.py)
    policy_id: TEXT          identifies the model that training begins with, for resuming; by default its name
    only_last_checkpoint: true   a complete checkpoint replaces those before it
    template_ids, special_tokens_in_text   how pairs become token ids, as in a recipe
    pack_tokens: auto        batches are read in packs where that gives the same log-probs; each has
                             per_device_train_batch_size pairs, or fewer on a CPU
                 N           the same; a batch has as many pairs as N tokens hold, whatever they are
                 off         LLaMA-Factory's own way, as without the key
    sampled_ids: FILE        token ids of responses that were sampled as others than their texts become
    smoothing: FILE          how far the labels of pairs are smoothed, row by row
    loss: length_normalized  DPO on log-probs per token
          wpo                DPO with pairs weighted by how likely the policy is to sample them

llama-factory/README.md lists what differs from upstream, and why.
"""

import atexit
import os
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import compile_lock
import reward_trainer
from dice.errors import BadInput
from dice.launch.complaint import complaining
from dice.launch.processes import die_with_parent
from dice.models import remote_code
from dice.models.chat_template import register_templates
from dice.models.checkpoint import ONLY_PICKLES, only_pickles
from dice.models.llamafactory import llamafactory
from dice.models.loading import leave_out_cudnn_attention
from dice.recipe.train_args import REFUSED_TRAIN_ARGS
from losses import LOSSES
from pair_data import Encoding, count_rows, encode_as_scored
from reference_trainer import Reference, install


def take_reference(config: dict[str, Any]) -> Reference:
    """Take DICE's own keys out of a configuration. Raises BadInput for what does not go together."""
    logps, table = config.pop("reference_logps", None), config.pop("reference_table", None)
    policy, keeps_all = config.pop("policy_id", None), not config.pop("only_last_checkpoint", False)
    if logps not in (None, "table", "model"):
        raise BadInput(f"reference_logps is {logps!r}; there are table, model")
    if logps and config.get("ld_alpha") is not None:
        raise BadInput(f"ld_alpha can't be used with reference_logps: {REFUSED_TRAIN_ARGS['ld_alpha']}")
    if logps != "table":
        if table:
            raise BadInput("reference_table is of use with reference_logps=table only")
        return Reference(logps, None, policy, keeps_all)
    if config.get("stage") != "dpo" or not config.get("do_train"):
        raise BadInput("reference_logps: table is for training with stage: dpo")
    for key in ("ref_model", "ref_model_adapters"):
        if config.get(key):
            raise BadInput(f"with reference_logps: table the policy is its own reference; take {key} out")
    if config.get("streaming"):
        raise BadInput("reference_logps: table reads all rows before the first step; take streaming out")
    return Reference(logps, Path(table) if table else None, policy, keeps_all)


def take_pack_tokens(config: dict[str, Any]) -> str | int:
    """Take the budget of a forward pass out of a configuration. Raises BadInput for one that is none."""
    tokens = config.pop("pack_tokens", False) or "off"  # YAML reads off as false
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 1
    if not is_count and tokens not in ("auto", "off"):
        raise BadInput(f"pack_tokens is {tokens!r}; it must be auto, off, or a number of tokens")
    if is_count and has_means_over_batch(config):
        raise BadInput(
            f"pack_tokens is {tokens}, but KTO's and BCO's losses take means over a device's batch, so its "
            "size must stay; use auto"
        )
    return tokens


def has_means_over_batch(config: dict[str, Any]) -> bool:
    """Whether the loss depends on how the pairs of a step are shared out to batches."""
    return config.get("pref_loss") == "kto_pair" or bool(config.get("pref_bco_weight"))


def take_loss(config: dict[str, Any], encoding: Encoding) -> str | None:
    """Take the loss out of a configuration. Raises BadInput for one that there is not, or not here."""
    loss, of_dpo = config.pop("loss", None), config.get("pref_loss", "sigmoid") == "sigmoid"
    if loss not in (None, *LOSSES):
        raise BadInput(f"loss is {loss!r}; there are {', '.join(LOSSES)}")
    if (loss or encoding.smoothing) and not (of_dpo and config.get("stage") == "dpo"):
        raise BadInput("loss and smoothing are for stage: dpo with pref_loss: sigmoid")
    return loss


def take_encoding(config: dict[str, Any]) -> Encoding:
    """Take the keys that say how pairs are encoded out of a configuration."""
    found = {field.name: config.pop(field.name) for field in fields(Encoding) if field.name in config}
    files = {name: Path(found[name]) for name in ("sampled_ids", "smoothing") if found.get(name)}
    return Encoding(**found | files)


def refuse_pickles(config: dict[str, Any]) -> None:
    """Raises BadInput for a model or adapter whose weights are pickles only: reading them can run code."""
    for key in ("model_name_or_path", "adapter_name_or_path", "ref_model", "ref_model_adapters"):
        name = config.get(key)
        if isinstance(name, str) and (pickle := only_pickles(name)):
            raise BadInput(f"{key}: {name} {ONLY_PICKLES.format(pickle)}")


def run(config: dict[str, Any], callbacks: list[Any] | None = None) -> None:
    """Train with a LLaMA-Factory configuration that may have DICE's own keys. Raises BadInput."""
    refuse_pickles(config)
    leave_out_cudnn_attention()
    if config.get("deepspeed"):
        compile_lock.install()
        remote_code.allow_deepspeed_states()
    encoding, pack_tokens = take_encoding(config), take_pack_tokens(config)
    loss = take_loss(config, encoding)
    install(take_reference(config), pack_tokens, loss, smooths=encoding.smoothing is not None)
    reward_trainer.install()
    register_templates()
    encode_as_scored(encoding)
    count_rows(pack_tokens, has_means_over_batch(config))
    llamafactory("train.tuner").run_exp(config, callbacks)


def leave_without_teardown(over: threading.Event) -> None:
    """At exit, once training is over: end before Python takes itself down, with status 0.

    A thread of torch's (Gloo's, say) that asks for the interpreter meanwhile would abort the process,
    and the training with it. To be registered first, so that it runs last: loggers finish before.
    """
    if over.is_set():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def main() -> None:
    die_with_parent()
    over = threading.Event()
    atexit.register(leave_without_teardown, over)
    config = llamafactory("hparams.parser").read_args()
    if not isinstance(config, dict):
        sys.exit("error: give a YAML or JSON file, then key=value")
    with complaining():
        run(config)
        over.set()


if __name__ == "__main__":
    main()
