"""Log-probs and gradients of packs under FSDP, in two processes; prints how far off they are.

    torchrun --nproc_per_node 2 fsdp_packed.py MODEL VERSION

The processes have the same batch, and logits come in several chunks. Accelerate starts FSDP on GPUs only;
torch's own works on CPUs too.
"""

import functools
import os
import sys

import torch
from padded_pairs import some_pairs, stock
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import packed

distributed.init_process_group("gloo")
own, model = (AutoModelForCausalLM.from_pretrained(sys.argv[1]).train() for _ in range(2))
own.gradient_checkpointing_enable({"use_reentrant": False})
model.gradient_checkpointing_enable({"use_reentrant": False})
reader = packed.Packed(model)
if sys.argv[2] == "1":
    policy = functools.partial(transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer})
    wrapped = FullyShardedDataParallel(
        model, auto_wrap_policy=policy, use_orig_params=True, device_id=torch.device("cpu")
    )
else:
    for layer in model.model.layers:
        fully_shard(layer)
    wrapped = fully_shard(model)
batch = some_pairs([(9, 14, 1), (3, 6, 22), (20, 12, 7)])
optimizers = [torch.optim.SGD(part.parameters(), lr=1e-3) for part in (own, wrapped)]
apart = 0.0
for _ in range(3):  # a wrong gradient shows in the next step's log-probs
    pack = packed.pack_of(batch, reader.limit)
    found, *_ = wrapped(**reader.arguments(pack, 4, torch.device("cpu")))
    expected, _ = stock(own, batch)
    apart = max(apart, float((found - expected).detach().abs().max()))
    weights = torch.linspace(-1, 1, len(expected))
    for sums, optimizer in zip((expected, found), optimizers, strict=True):
        optimizer.zero_grad()
        (sums * weights).sum().backward()
        optimizer.step()
worst = torch.tensor(apart)
distributed.all_reduce(worst, distributed.ReduceOp.MAX)
if distributed.get_rank() == 0:
    print(float(worst), flush=True)
distributed.destroy_process_group()
os._exit(0)  # as train.py leaves: a thread of Gloo's can abort a process that Python takes down
