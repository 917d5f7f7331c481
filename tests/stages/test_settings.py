"""What manifests record of a recipe: the same bytes as ever, or runs of before would not be accepted."""

import json

import pytest

from dice.recipe.load import load_recipe
from dice.run.run import Run
from dice.stages.order import STAGES

AUTO = "dtype=auto"
CHANGES = [
    AUTO,
    "pair.alpha=0",  # which stays a whole number
    "replay.gamma=1",  # which becomes 1.0
    "generate.engine_args={x: [1, 2.0, null]}",
    "score.reward=judge",
    "score.judge=some/judge",  # a server's: the recipe's own may lie here, made by a run
]
RECORDED = [
    (
        "generate",
        CHANGES,
        '{"seed": 42, "template": "llama3-custom", "dtype": "auto", "generate": {"engine": "hf", '
        '"samples": 16, "temperature": 0.9, "top_p": 1.0, "max_new_tokens": 64, "max_model_len": '
        'null, "shard_size": 100, "batch_tokens": 131072, "engine_args": {"x": [1, 2.0, null]}}}',
    ),
    (
        "score",
        CHANGES,
        '{"template": "llama3-custom", "dtype": "auto", "columns": "prompt_id, sample, ids_hash, '
        'n_chars, n_tokens, logp_policy, logp_ref, reward", "score": {"reward": "judge", '
        '"cutoff_len": 1024, "seed": 42, "judge": "some/judge", "judge_prompt": "Grade from '
        '0 to 5:", "judge_samples": 4, "judge_temperature": 0.7, "judge_max_tokens": 4}, "pair": '
        '{"min_chars": 4, "max_chars": 6699}}',
    ),
    (
        "pair",
        CHANGES,
        '{"seed": 42, "replay": {"dataset": "tiny_preferences", "gamma": 1.0}, "pair": '
        '{"min_samples": 8, "min_chars": 4, "max_chars": 6699, "length": "chars", "alpha": 0, '
        '"rejected": "worst", "per_prompt": 1, "min_margin": 0.0, "trl": false}}',
    ),
    (
        "train",
        CHANGES,
        '{"seed": 42, "template": "llama3-custom", "cutoff_len": 1024, "train": {"config": '
        '"dpo.yaml", "global_batch_size": 32, "reference_logps": "table", "args": {"stage": '
        '"dpo", "finetuning_type": "full", "pref_beta": 0.1, "pref_loss": "sigmoid", '
        '"per_device_train_batch_size": 32, "learning_rate": 5e-06, "lr_scheduler_type": '
        '"constant", "num_train_epochs": 3, "logging_steps": 10, "save_strategy": "steps", '
        '"save_steps": 50, "report_to": "none"}}}',
    ),
    (
        "evaluate",
        CHANGES,
        '{"seed": 42, "template": "llama3-custom", "dtype": "auto", "generate": {"engine": "hf", '
        '"samples": 4, "temperature": 0.9, "top_p": 1.0, "max_new_tokens": 64, "max_model_len": '
        'null, "shard_size": 100, "batch_tokens": 131072, "engine_args": {"x": [1, 2.0, null]}}, '
        '"evaluate": {"prompts": "tiny_held_out", "judge": "scripts/tiny/world.py:quality", '
        '"samples": 4}}',
    ),
    (
        "train_rm",
        [AUTO, "score.reward=reward_model"],
        '{"seed": 42, "template": "llama3-custom", "cutoff_len": 1024, "batch": 32, "args": '
        '{"stage": "rm", "finetuning_type": "full", "per_device_train_batch_size": 32, '
        '"lr_scheduler_type": "constant", "logging_steps": 10, "report_to": "none", '
        '"num_train_epochs": 2, "save_strategy": "no", "use_reentrant_gc": false, '
        '"learning_rate": 0.001}}',
    ),
    (
        "score",
        [AUTO],
        '{"template": "llama3-custom", "dtype": "auto", "columns": "prompt_id, sample, ids_hash, '
        'n_chars, n_tokens, logp_policy, logp_ref, reward", "score": {"reward": "implicit", '
        '"cutoff_len": 1024, "batch_tokens": "auto", "attn_implementation": "auto", '
        '"quantization_bit": null}, "pair": {"min_chars": 4, "max_chars": 6699}}',
    ),
]


def test_what_is_not_default_is_recorded():
    words = ["replay.select=top", "score.normalize=tokens", "train.loss=wpo"]
    recipe = load_recipe("tiny", words)
    recorded = {name: stage.settings(Run(recipe.run_dir, recipe), 1) for name, stage in STAGES.items()}
    assert recorded["pair"]["replay"]["select"] == "top" and "offline_scores" in recorded["pair"]
    assert recorded["train"]["train"]["loss"] == "wpo" and "smoothing" not in recorded["train"]["train"]
    assert recorded["score"]["score"]["normalize"] == "tokens"
    confident = load_recipe("tiny", ["pair.min_confidence=0.9"])
    recorded = STAGES["pair"].settings(Run(confident.run_dir, confident), 1)
    assert recorded["pref_beta"] == 0.1 and recorded["pair"]["min_confidence"] == 0.9


@pytest.mark.parametrize(("stage", "overrides", "recorded"), RECORDED)
def test_what_manifests_record_of_a_recipe(stage, overrides, recorded):
    recipe = load_recipe("tiny", overrides)
    assert json.dumps(STAGES[stage].settings(Run(recipe.run_dir, recipe), 1)) == recorded
