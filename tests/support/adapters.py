"""A LoRA adapter on a model."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def make_adapter(base, folder, seed, std=0.1, **options):
    """A LoRA adapter; with the usual `std` its weights are far from zero."""
    torch.manual_seed(seed)
    options = {"target_modules": ["q_proj", "down_proj"], **options}
    config = LoraConfig(r=4, lora_alpha=8, **options)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, weights in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weights, std=std)
    model.save_pretrained(folder)
    return str(folder)
