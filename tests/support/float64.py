"""Log-probs as plainly as they can be had, to compare with."""

import copy

import torch
from transformers import AutoModelForCausalLM


def one_by_one(folder, rows):
    """Log-probs of each response's tokens: float64, no padding, the model's own eager attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    if model.config.model_type not in ("gpt_oss", "mixtral"):  # whose experts are not to be had in float64
        model = model.double()
    found = []
    for prompt, response in rows:
        with torch.no_grad():
            fresh = copy.deepcopy(model)  # dynamic position encodings remember longer rows
            logps = fresh(torch.tensor([prompt + response]), use_cache=False).logits[0].log_softmax(-1)
        found.append([float(logps[len(prompt) - 1 + i, token]) for i, token in enumerate(response)])
    return found
