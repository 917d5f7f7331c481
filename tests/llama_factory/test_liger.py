"""Liger kernels, with a stand-in for their package: a DPO training is to keep its logits."""

import sys
from types import ModuleType

import pytest

from dice.models.llamafactory import llamafactory

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("stage", "fused"), [("dpo", False), ("sft", True)])
def test_no_loss_is_fused_with_the_head_in_dpo(random_model, monkeypatch, stage, fused):
    """The log-probs of a response are computed from logits, which a fused loss never makes."""
    hparams, loader = llamafactory("hparams"), llamafactory("model.loader")  # before the stand-in is there
    fusions = []

    def apply_liger_kernel_to_llama(rope=True, cross_entropy=False, fused_linear_cross_entropy=True):
        fusions.append(fused_linear_cross_entropy)

    package = ModuleType("liger_kernel.transformers")
    package.apply_liger_kernel_to_llama = apply_liger_kernel_to_llama
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers", package)
    model_args = hparams.ModelArguments(model_name_or_path=str(random_model), enable_liger_kernel=True)
    finetuning_args = hparams.FinetuningArguments(stage=stage, finetuning_type="full")
    tokenizer = loader.load_tokenizer(model_args)["tokenizer"]
    loader.load_model(tokenizer, model_args, finetuning_args, is_trainable=True)
    assert fusions == [fused]
