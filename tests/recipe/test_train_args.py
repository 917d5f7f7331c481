"""LLaMA-Factory's arguments: every one is the loop's own, refused, or known to do a round no harm."""

import pytest

from dice.errors import BadInput
from dice.recipe.load import load_recipe, load_resolved, resolved_yaml
from dice.recipe.paths import RECIPES
from dice.recipe.train_args import AS_WITHOUT, MANAGED_TRAIN_ARGS, REFUSED_TRAIN_ARGS, refusal
from dice.run.run import create_run
from dice.stages.train import check_rows, round_config

# What is passed on, and why it may be.
PASSED_ON = {
    "what a round is trained with, and how fast: no model is read otherwise because of it": """
        num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps
        warmup_ratio optim optim_args optim_target_modules weight_decay adam_beta1 adam_beta2
        adam_epsilon max_grad_norm average_tokens_across_devices tf32 data_seed full_determinism
        disable_shuffling early_stopping_steps metric_for_best_model greater_is_better use_adam_mini
        use_muon use_galore galore_target galore_rank galore_update_interval galore_scale
        galore_proj_type galore_layerwise use_apollo apollo_target apollo_rank apollo_update_interval
        apollo_scale apollo_proj apollo_proj_type apollo_scale_type apollo_layerwise apollo_scale_front
        use_badam badam_mode badam_start_block badam_switch_mode badam_switch_interval
        badam_update_ratio badam_mask_mode badam_verbose""",
    "which weights are trained": """
        finetuning_type freeze_trainable_layers freeze_trainable_modules freeze_extra_modules
        use_llama_pro additional_target lora_alpha lora_dropout lora_rank lora_target loraplus_lr_ratio
        loraplus_lr_embedding use_rslora use_dora pissa_iter pissa_convert""",
    "the loss, the same from a table as from a model (tests/llama_factory/test_training.py)": """
        stage pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing simpo_gamma""",
    "taken into account: batches, validation, weights in few bits, what needs a GPU or a package": """
        per_device_train_batch_size val_size max_samples quantization_method quantization_bit
        quantization_type double_quantization bf16 fp16 pure_bf16 deepspeed flash_attn report_to
        trackio_space_id enable_liger_kernel""",
    "memory, speed and rounding": """
        low_cpu_mem_usage use_unsloth_gc disable_gradient_checkpointing use_reentrant_gc
        upcast_layernorm upcast_lmhead_output use_v1_kernels quantization_device_map bf16_full_eval
        fp16_full_eval gradient_checkpointing gradient_checkpointing_kwargs torch_compile
        torch_compile_backend torch_compile_mode liger_kernel_config use_cache torch_empty_cache_steps
        use_cpu fp8_backend ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
        ddp_backend ddp_timeout fsdp fsdp_config""",
    "how the data is handled, of which there is one set in one place": """
        media_dir buffer_size mix_strategy interleave_probs overwrite_cache preprocessing_batch_size
        preprocessing_num_workers dataloader_drop_last dataloader_num_workers dataloader_pin_memory
        dataloader_persistent_workers dataloader_prefetch_factor remove_unused_columns label_names
        length_column_name""",
    "what is logged, validated and kept to go on from": """
        logging_strategy logging_steps logging_first_step log_on_each_node include_num_input_tokens_seen
        log_level log_level_replica disable_tqdm project logging_dir plot_loss debug skip_memory_metrics
        print_param_status include_effective_tokens_per_second eval_strategy eval_steps eval_delay
        per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches
        eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics
        eval_on_each_dataset do_eval do_predict save_strategy save_steps
        restore_callback_states_from_checkpoint enable_torch_profiler profiler_output_dir
        profiler_wait_steps profiler_warmup_steps profiler_active_steps profiler_repeat
        profiler_record_shapes profiler_profile_memory profiler_with_stack profile_modules use_swanlab
        swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_logdir
        swanlab_lark_webhook_url""",
    "where models come from; tokens are refused as secrets": """
        cache_dir offload_folder hf_hub_token ms_hub_token om_hub_token hub_token swanlab_api_key
        swanlab_lark_secret""",
    "of other stages, of switches that are off, or of inference: training by DPO asks for none of it": """
        init_special_tokens use_kv_cache infer_dtype image_max_pixels image_min_pixels
        image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps video_maxlen
        use_audio_in_video audio_sampling_rate export_dir export_size export_device
        export_quantization_bit export_quantization_dataset export_quantization_nsamples
        export_quantization_maxlen export_legacy_format export_hub_model_id kt_weight_path
        kt_expert_checkpoint_path kt_use_lora_experts kt_lora_expert_num
        kt_lora_expert_intermediate_size vllm_maxlen vllm_gpu_util vllm_enforce_eager vllm_max_lora_rank
        vllm_config sglang_maxlen sglang_mem_fraction sglang_tp_size sglang_config sglang_lora_backend
        eval_num_beams hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision
        sortish_sampler generation_max_length generation_num_beams generation_config ray_num_workers
        ray_init_kwargs master_addr master_port module_dropout oft_rank oft_block_size oft_target
        kto_chosen_weight kto_rejected_weight ppo_buffer_size ppo_epochs ppo_score_norm ppo_target
        ppo_whiten_rewards reward_model reward_model_adapters reward_model_quantization_bit
        reward_model_type hyper_parallel_args asft_alpha eaft_alpha freeze_vision_tower
        freeze_multi_modal_projector freeze_language_model compute_accuracy do_sample temperature top_p
        top_k num_beams max_length max_new_tokens repetition_penalty length_penalty skip_special_tokens""",
}  # fmt: skip
OTHERWISE = {"ignore_pad_token_for_loss": False, "use_fast_tokenizer": False, "enable_thinking": False}
OTHERWISE |= {"train_sampling_strategy": "group_by_length", "infer_backend": "vllm"}


@pytest.mark.slow  # importing LLaMA-Factory takes seconds
def test_every_argument_of_llama_factorys_has_been_judged():
    from dice.models.llamafactory import arguments

    lists = [*MANAGED_TRAIN_ARGS, *REFUSED_TRAIN_ARGS, *" ".join(PASSED_ON.values()).split()]
    assert len(lists) == len(set(lists))
    assert arguments().keys() - set(lists) == set()  # new: does a round of the loop stand it?
    assert set(lists) - arguments().keys() == set()  # gone


@pytest.mark.parametrize("name", REFUSED_TRAIN_ARGS)
def test_what_would_break_a_round_is_refused_by_name(name):
    value = OTHERWISE.get(name, 0.5)
    with pytest.raises(BadInput) as caught:
        load_recipe("tiny", [f"train.{name}={value}"])
    shown = "false" if value is False else repr(value)
    wanted = f"on the command line: train.{name} can't be {shown} in a round: {REFUSED_TRAIN_ARGS[name]}"
    assert str(caught.value) == wanted
    for harmless in AS_WITHOUT.get(name, (False, None, 0, "")):
        assert not refusal(name, harmless)


def test_wherever_it_stands(tmp_path):
    files = {name: (RECIPES / "tiny" / name).read_text() for name in ("dice.yaml", "dpo.yaml")}
    for name, line, named in [
        ("dpo.yaml", "tokenized_path: x", "dpo.yaml:{}: train.tokenized_path can't be 'x'"),
        ("dice.yaml", "train: {tokenized_path: x}", "dice.yaml:{}: train.tokenized_path can't be 'x'"),
        ("dice.yaml", "train: {args: {tokenized_path: x}}", "dice.yaml:{}: train.tokenized_path can't be"),
        ("dice.yaml", "train: {args: {ref_model: x}}", "dice.yaml:{}: train.ref_model follows from the rest"),
    ]:
        for file, text in files.items():
            kept = [row for row in text.splitlines() if not row.startswith("train")] if file == name else []
            (tmp_path / file).write_text("\n".join([*kept, line]) if kept else text)
        with pytest.raises(BadInput) as caught:
            load_recipe(str(tmp_path))
        assert named.format(len((tmp_path / name).read_text().splitlines())) in str(caught.value)


def test_a_run_of_before_that_was_given_it_is_refused_in_one_line(tmp_path):
    recipe = load_recipe("tiny")
    recipe.train.args["ld_alpha"] = 0.5
    (tmp_path / "recipe.yaml").write_text(resolved_yaml(recipe))
    with pytest.raises(
        BadInput, match=r"recipe.yaml:\d+: train.ld_alpha can't be 0.5 in a round: LLaMA-Fact"
    ):
        load_resolved(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("value", ["0,1", "[1]", "true"])
@pytest.mark.parametrize("more", [[], ["pair.min_confidence=0.6"]])
def test_beta_is_a_number(value, more):
    with pytest.raises(BadInput, match=r"on the command line: train.pref_beta is .*; it must be a number"):
        load_recipe("tiny", [f"train.pref_beta={value}", *more])
    for harmless in ("1e-1", "null"):
        assert load_recipe("tiny", [f"train.pref_beta={harmless}", *more]).beta == 0.1


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        ("llama3", ["train.val_size=0"], "train.eval_strategy is 'steps'; it needs train.val_size, or set"),
        ("smollm2", ["train.eval_strategy=epoch"], "train.eval_strategy is 'epoch'; it needs train.val_size"),
        (
            "llama3",
            ["train.quantization_bit=4"],
            "quantization_bit is 4; it needs train.finetuning_type=lora",
        ),
        ("llama3-lora", ["train.finetuning_type=full"], "is 4; it needs train.finetuning_type=lora"),
        ("tiny", ["train.ld_alpha=0"], "train.ld_alpha can't be 0 in a round: LLaMA-Factory applies it"),
    ],
)
def test_what_the_trainer_would_refuse_or_leave_out(recipe, words, told):
    with pytest.raises(BadInput) as caught:
        load_recipe(recipe, words)
    assert told in str(caught.value)


def test_what_goes_together():
    assert load_recipe("llama3", ["train.val_size=0", "train.eval_strategy=no"]).train.args["val_size"] == 0
    with pytest.raises(BadInput, match="max_samples is 64, and the round may have 65 pairs: of the last"):
        check_rows(65, load_recipe("tiny", ["train.max_samples=64"]))
    check_rows(65, load_recipe("tiny", ["train.max_samples=64", "replay.gamma=1"]))
    check_rows(64, load_recipe("tiny", ["train.max_samples=64"]))


def test_null_is_as_if_it_were_not_given(fake_settings):
    run = create_run(load_recipe("tiny", [*fake_settings, "train.save_steps=null", "train.max_steps=null"]))
    assert not {"save_steps", "max_steps"} & round_config(run, 1).keys()
