"""Memory and time of each stage, by arithmetic: bytes per parameter, FLOPs per token. Pure.

N is a model's number of parameters. A forward pass takes 2N FLOPs per token, a backward pass 4N. What
gradient checkpointing repeats is not counted: published shares of the peak don't count it either.
docs/plan-and-doctor.md has the formulas in one place.
"""

from dataclasses import dataclass

from dice.launch.hardware import GIB, Device, Machine, trained_flops
from dice.tools.plan.sizes import Size
from dice.tools.plan.workload import Workload

# Share of the device's peak that is reached, by what it does: (GPU, CPU).
SCORING, TRAINING, DECODING, BANDWIDTH = (0.4, 0.2), (0.2, 0.4), (0.3, 0.2), (0.6, 0.6)
STEP_SECONDS = 0.004  # of a decoding step, beside its arithmetic
READ_RATE = 1.5e9  # bytes per second at which weights are read from the disk
START_SECONDS = {"generate": (60, 8), "score": (30, 8), "train": (60, 15)}  # beside reading weights
PAIR_SECONDS = 30e-6  # of a response, in the pair stage
OVERHEAD = (3 * GIB, GIB // 2)  # of the CUDA context, buffers of NCCL and what fragmentation costs
ADAM = 16  # bytes of a trained parameter: weight and gradient in bf16, master copy and two moments in float32
FOUR_BIT = 0.56  # bytes of a parameter in 4 bits, with its scales
USABLE = 0.95  # of a device's memory; a twentieth is never free
LOGIT_BYTES = 14  # of a token's logit in training: bf16, float32, its log-softmax, and the gradient


@dataclass(frozen=True)
class Sampling:
    """How an engine samples."""

    rows: int  # decoded at once, at most
    held_tokens: int  # whose keys and values must fit at least
    memory_share: float  # of the device's memory that the engine takes
    devices: int = 1  # that an engine spreads its model over


@dataclass(frozen=True)
class Training:
    """How a round is trained, out of the training file."""

    kind: str  # full, freeze or lora
    zero_stage: int  # of DeepSpeed; 0 without it
    offloads_optimizer: bool
    offloads_weights: bool
    quantization_bit: int | None
    rank: int  # of LoRA
    trained_layers: int  # of freeze
    per_device: int  # pairs in one forward pass
    cutoff_len: int  # tokens
    keeps_reference: bool  # in memory during training
    evaluations: int


@dataclass(frozen=True)
class Cost:
    """Of one stage. Memory is what a device needs at least, in bytes."""

    memory: int
    seconds: float  # NaN where the device's speed is not known
    share: float = USABLE  # of a device's memory that it may take

    def fits(self, device: Device) -> bool:
        return self.memory <= self.share * device.memory


def _of(pair: tuple, device: Device) -> float:
    return pair[0] if device.is_gpu else pair[1]


def weight_bytes(size: Size, device: Device, bits: int | None = None) -> float:
    """Bytes of a model that is used, not trained: bf16 on GPUs, float32 on CPUs, or quantized."""
    if bits is None:
        return size.parameters * (2 if device.is_gpu else 4)
    quantized = (size.parameters - size.embeddings) * (FOUR_BIT if bits == 4 else 1.0)
    return quantized + 2 * size.embeddings


def cache_bytes(size: Size, device: Device) -> int:
    """Bytes of a token's keys and values."""
    return 2 * size.layers * size.key_width * (2 if device.is_gpu else 4)


def _attention_flops(size: Size, length: float) -> float:
    """FLOPs of a token's attention in a row of `length` tokens, beside the 2N."""
    return 2 * size.layers * size.hidden * length


def _seconds(flops: float, device: Device, share: tuple) -> float:
    return flops / (device.flops * _of(share, device))


def _start(stage: str, device: Device, weights: float) -> float:
    """Seconds until a stage begins, which reads so many bytes of weights first."""
    return weights / READ_RATE + _of(START_SECONDS[stage], device)


def generate(size: Size, machine: Machine, work: Workload, how: Sampling) -> Cost:
    """Sampling. Each prompt is read once; then every step reads the weights and all keys and values.

    Each device of an engine has its share of weights, keys, values and arithmetic.
    """
    device, engines = machine.device, max(1, machine.count // how.devices)
    whole = weight_bytes(size, device)
    weights, per_token = whole / how.devices, cache_bytes(size, device) / how.devices
    needed = weights + per_token * how.held_tokens + _of(OVERHEAD, device)
    row = work.prompt_tokens / work.samples + work.response_tokens
    room = device.memory * how.memory_share - weights - _of(OVERHEAD, device)
    at_once = max(1, min(how.rows, room / (per_token * row)))
    context = work.prompt_tokens + work.response_tokens / 2
    moved = (weights + at_once * per_token * context) / (device.bandwidth * _of(BANDWIDTH, device))
    flops = at_once * (2 * size.parameters + _attention_flops(size, context)) / how.devices
    step = max(moved, _seconds(flops, device, DECODING)) + STEP_SECONDS
    decoding = work.responses * work.response_tokens / at_once * step
    reading = work.prompts * work.prompt_tokens * 2 * size.parameters / how.devices
    seconds = (decoding + _seconds(reading, device, SCORING)) / engines + _start("generate", device, whole)
    return Cost(int(needed), seconds, share=min(how.memory_share, USABLE))


def score(size: Size, machine: Machine, work: Workload, bits: int | None, models: int = 2) -> Cost:
    """Log-probs under two models, one after the other, a prompt read once for its responses.

    A reward model is one, and reads a prompt with every response.
    """
    device = machine.device
    weights = weight_bytes(size, device, bits)
    readings = 1 if models == 2 else work.samples
    tokens = work.prompts * (readings * work.prompt_tokens + work.samples * work.response_tokens)
    length = work.prompt_tokens + work.response_tokens
    flops = models * tokens * (2 * size.parameters + _attention_flops(size, length))
    logits = 4 * 128 * size.vocabulary
    seconds = _seconds(flops, device, SCORING) / machine.count + _start("score", device, models * weights)
    return Cost(int(weights + logits + _of(OVERHEAD, device)), seconds)


def pair(work: Workload) -> Cost:
    """Choosing pairs: reading and writing, on one core."""
    return Cost(0, 1 + work.responses * PAIR_SECONDS)


def adapter_parameters(size: Size, rank: int) -> int:
    """Parameters of LoRA on all linear layers: rank times what goes in and out."""
    hidden, keys, inner = size.hidden, size.key_width, size.intermediate
    attention = 4 * hidden + 2 * (hidden + keys)
    return size.layers * rank * (attention + 3 * (hidden + inner))


def trained_parameters(size: Size, how: Training) -> int:
    """Parameters that a round changes."""
    if how.kind == "lora":
        return adapter_parameters(size, how.rank)
    if how.kind == "freeze":
        inside = size.parameters - size.embeddings
        return int(inside * min(1.0, how.trained_layers / size.layers))
    return size.parameters


def train_memory(size: Size, device: Device, count: int, how: Training, longest: int) -> int:
    """Bytes of a device in training; ZeRO shares out the optimizer (2), and weights as well (3)."""
    trained = trained_parameters(size, how)
    frozen = weight_bytes(size, device, how.quantization_bit)
    if how.kind != "lora":
        frozen *= 1 - trained / size.parameters
    share = count if how.zero_stage == 3 else 1
    states = 0 if how.offloads_optimizer else (ADAM - 4) * trained / (count if how.zero_stage else 1)
    gradients = 2 * trained / (count if how.zero_stage >= 2 else 1)
    weights = 0 if how.offloads_weights else (frozen + 2 * trained) / share
    reference = weight_bytes(size, device) / share if how.keeps_reference else 0
    gathered = 2 * 2 * size.parameters / size.layers + 2 * size.vocabulary * size.hidden
    buffers = gathered if how.zero_stage == 3 else 0
    activations = activation_bytes(size, how, longest)
    return int(weights + gradients + states + reference + buffers + activations + _of(OVERHEAD, device))


def activation_bytes(size: Size, how: Training, longest: int) -> float:
    """Bytes that a forward and a backward pass keep: layer inputs, one layer's inside, the logits."""
    tokens = 2 * how.per_device * min(how.cutoff_len, longest)
    inputs = 2 * tokens * size.layers * size.hidden
    inside = 2 * tokens * (8 * size.hidden + 4 * size.intermediate)
    return inputs + inside + LOGIT_BYTES * tokens * size.vocabulary


def train(size: Size, machine: Machine, work: Workload, how: Training, longest: int) -> Cost:
    """DPO. A trained token takes 6N FLOPs, 4N where the base is frozen; its reference 2N more.

    Without a reference in memory that is so for replayed pairs alone: scoring has done the others.
    """
    device = machine.device
    memory = train_memory(size, device, machine.count, how, longest)
    length = min(how.cutoff_len, work.prompt_tokens + work.response_tokens)
    forward = 2 * size.parameters + _attention_flops(size, length)
    passes = trained_flops(size.parameters, trained_parameters(size, how)) / (2 * size.parameters)
    pairs, validations = work.steps * work.batch, work.held_out * how.evaluations
    referred = pairs + validations if how.keeps_reference else work.offline
    flops = 2 * length * forward * (passes * pairs + validations + referred)
    moved = 2 * weight_bytes(size, device)  # read at the start, written at the end
    return Cost(memory, _seconds(flops, device, TRAINING) / machine.count + _start("train", device, moved))


def disk_bytes(size: Size, work: Workload, how: Training) -> tuple[int, int]:
    """Bytes that a round leaves behind: (its model, its texts and numbers).

    A response is written once, with some 330 bytes of JSON and its score; a pair three times.
    """
    model = 4 * trained_parameters(size, how) if how.kind == "lora" else (size.weights or 2 * size.parameters)
    response = work.response_tokens * work.chars_per_token
    prompt = work.prompt_tokens * work.chars_per_token
    pairs = 3 * (work.generated + work.offline) * (prompt + 2 * response)
    return int(model), int(work.responses * (response + 330) + work.prompts * prompt + pairs)


def least_gpus(size: Size, machine: Machine, how: Training, longest: int) -> int | None:
    """The smallest power of two of these devices on which training fits; None up to 64."""
    usable = USABLE * machine.device.memory
    counts = (2**power for power in range(7))
    return next((n for n in counts if train_memory(size, machine.device, n, how, longest) <= usable), None)
