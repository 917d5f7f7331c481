"""LLaMA-Factory's arguments in a recipe: which follow from its other keys, and which would break a round.

What is in neither list goes to LLaMA-Factory as it is: it leaves alone what the loop relies on, or it is
taken into account where it matters (`quantization_bit`, `pref_loss`, `val_size`). A test knows every
argument of LLaMA-Factory's, so that what a new version adds is judged first.
"""

from typing import Any

# They follow from the rest of the recipe, so nobody sets them by hand.
MANAGED_TRAIN_ARGS = {
    "do_train", "model_name_or_path", "adapter_name_or_path", "adapter_folder", "model_revision",
    "create_new_adapter", "ref_model", "ref_model_adapters", "ref_model_quantization_bit", "template",
    "cutoff_len", "dataset", "dataset_dir", "data_shared_file_system", "output_dir", "overwrite_output_dir",
    "resume_from_checkpoint", "run_name", "save_total_limit", "save_only_model", "load_best_model_at_end",
    "logging_nan_inf_filter", "seed", "gradient_accumulation_steps", "trust_remote_code", "local_rank",
}  # fmt: skip

# Why they can't be used in a round. What they are without being given may be written down all the same.
REFUSED_TRAIN_ARGS = {
    "tokenized_path": "later rounds would train on the first round's pairs",
    "eval_dataset": "validation is a part of the round's pairs; set train.val_size",
    "streaming": "all pairs are read before the first step",
    **dict.fromkeys(
        ("packing", "neat_packing", "train_on_prompt", "mask_history", "predict_with_generate", "use_kt",
         "use_dft_loss", "use_asft_loss", "use_eaft_loss", "use_hyper_parallel"),
        "LLaMA-Factory has it for supervised fine-tuning, and not for DPO",
    ),
    "infer_backend": "it is not for training; set generate.engine",
    "moe_aux_loss_coef": "no such loss is computed in DPO",
    "label_smoothing_factor": "it changes nothing in DPO; set train.dpo_label_smoothing",
    "ld_alpha": "LLaMA-Factory applies it to the policy's log-probs and not to the reference's",
    "ignore_pad_token_for_loss": "the padding of a response would count as the response",
    **dict.fromkeys(
        ("use_fast_tokenizer", "split_special_tokens", "add_tokens", "add_special_tokens",
         "new_special_tokens_config", "resize_vocab", "tool_format", "preserve_thinking"),
        "training would read other tokens than sampling and scoring",
    ),
    "default_system": "sampling and scoring would not see it; give the data a column for the system prompt",
    "enable_thinking": "sampling would not know of it; use enable_thinking beside template",
    **dict.fromkeys(
        ("rope_scaling", "shift_attn", "mixture_of_depths", "train_from_scratch", "use_unsloth", "use_mca",
         "fp8", "fp8_enable_fsdp_float8_all_gather", "neftune_noise_alpha", "pissa_init"),
        "the model that is trained would not be the one that is sampled and scored",
    ),
    "use_liger_kernel": "it may leave out the logits; set train.enable_liger_kernel",
    **dict.fromkeys(
        ("auto_find_batch_size", "accelerator_config", "parallelism_config"),
        "it changes the batch, which is train.global_batch_size",
    ),
    "train_sampling_strategy": "pairs have no one length to be grouped by",
    **dict.fromkeys(
        ("ignore_data_skip", "enable_jit_checkpoint", "save_on_each_node"),
        "a training that was interrupted would not go on as it began",
    ),
    "push_to_hub": "every checkpoint would be published; use `python -m dice export --push`",
}  # fmt: skip
NOT_GIVEN = (None, False, 0, "")
AS_WITHOUT = {
    "ld_alpha": (None,),
    "ignore_pad_token_for_loss": (None, True),
    "use_fast_tokenizer": (None, True),
    "enable_thinking": (True,),
    "infer_backend": (None, "huggingface"),
    "train_sampling_strategy": (None, "random", "sequential"),
}


def refusal(name: str, value: Any) -> str | None:
    """Why an argument of LLaMA-Factory's can't have this value in a round; None where it can."""
    fine = value in AS_WITHOUT.get(name, NOT_GIVEN)
    return None if fine else REFUSED_TRAIN_ARGS.get(name)
