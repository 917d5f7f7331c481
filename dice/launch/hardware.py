"""What a machine has and how fast that is: the GPUs that are here, those that `gpus=` names, or the CPU."""

import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from dice.errors import BadInput, counted
from dice.launch import devices

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """What one worker computes on."""

    name: str
    memory: int  # bytes
    flops: float  # per second, bf16 without sparsity; of a CPU float32; NaN where it isn't known
    bandwidth: float  # bytes of memory per second
    is_gpu: bool = True


@dataclass(frozen=True)
class Machine:
    """`count` equal devices, and how they are known."""

    device: Device
    count: int
    origin: str

    def __str__(self) -> str:
        what = f"{self.count} x {self.device.name}" if self.device.is_gpu else self.device.name
        each = (
            "" if self.count == 1 else " each" if self.device.is_gpu else f" for each of {self.count} workers"
        )
        return f"{what}, {self.device.memory / GIB:,.0f} GiB{each}, {self.origin}"


def _gpu(name: str, gib: int, teraflops: float, gigabytes: float) -> Device:
    return Device(name, gib * GIB, teraflops * 1e12, gigabytes * 1e9)


# GiB, dense bf16 TFLOP/s, GB/s: the vendor's data sheets, of the SXM version where there are several.
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("A10G", 24, 70, 600),
        _gpu("A6000", 48, 155, 768),
        _gpu("A100-40G", 40, 312, 1555),
        _gpu("A100-80G", 80, 312, 2039),
        _gpu("L4", 24, 121, 300),
        _gpu("L40S", 48, 362, 864),
        _gpu("H100-80G", 80, 989, 3350),
        _gpu("H200", 141, 989, 4800),
        _gpu("B200", 180, 2250, 8000),
        _gpu("RTX-4060", 8, 30, 272),
        _gpu("RTX-4070", 12, 58, 504),
        _gpu("RTX-4080", 16, 97, 717),
        _gpu("RTX-3090", 24, 71, 936),
        _gpu("RTX-4090", 24, 165, 1008),
        _gpu("RTX-5090", 32, 210, 1792),
    )
}
GIVEN = "as given"  # how an origin begins that is not this machine
FORM = re.compile(r"(?:(0|[1-9]\d{0,3})\s*[X*])?\s*([A-Z][\w-]*|[1-9]\d{0,3}G(?:I?B)?)")
CPU_FLOPS, CPU_BANDWIDTH = 50e9, 10e9  # of one core in float32, and of all of them: an assumption


def parse_gpus(text: str) -> Machine:
    """`8xA100-80G` (or `H200`, for one); of `A100`, which has several sizes, the largest, with a hint.

    `1x24G` is any GPU of 24 GiB, of which nobody knows how fast it is.
    Raises BadInput, with the names there are, for anything else.
    """
    found = FORM.fullmatch(text.strip().upper())
    number, name = found.groups() if found else ("1", "")
    name = re.sub("GI?B$", "G", name)
    if name[:1].isdigit() and number != "0":
        gib = int(name.removesuffix("G"))
        return Machine(_gpu(f"GPU of {gib} GiB", gib, math.nan, math.nan), int(number or 1), GIVEN)
    named = [gpu for gpu in GPUS.values() if name and (gpu.name == name or gpu.name.startswith(f"{name}-"))]
    if len({gpu.flops for gpu in named}) != 1 or number == "0":
        example = f"8x{named[-1].name if named else 'A100-80G'}"
        raise BadInput(f"gpus is {text!r}; it must be like {example} or 1x24G; there are: {', '.join(GPUS)}")
    *others, largest = sorted(named, key=lambda gpu: gpu.memory)
    hint = "".join(f"; write gpus={number or 1}x{gpu.name} if it is that" for gpu in others)
    return Machine(largest, int(number or 1), f"{GIVEN}{hint}")


def trained_flops(parameters: int, trained: int) -> int:
    """Of a token in training: 2 a parameter forward, 2 backward, and 2 more for one that is trained."""
    return 4 * parameters + 2 * trained


def find() -> Machine:
    """The GPUs that a run on this machine would use, or its CPU."""
    count = devices.workers_per_node()
    if gpu := _first_gpu() if devices.gpu_count() else None:
        return Machine(gpu, count, "found here")
    cores = devices.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = f"CPU with {counted(cores, 'core')}"
    # Workers share cores and memory.
    cpu = Device(name, memory // count, cores * CPU_FLOPS / count, CPU_BANDWIDTH / count, is_gpu=False)
    return Machine(cpu, count, "no GPU was found")


def _first_gpu() -> Device | None:
    if not shutil.which("nvidia-smi"):
        return None
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    first = subprocess.run(query, capture_output=True, text=True).stdout.strip().partition("\n")[0]
    product, _, mebibytes = first.rpartition(",")
    return recognize(product.strip(), int(mebibytes) << 20) if mebibytes.strip().isdigit() else None


def recognize(product: str, memory: int) -> Device:
    """The GPU that nvidia-smi calls `product`; one that is not in the table has no figures but its memory."""
    words = set(re.split(r"[\s-]+", product.upper()))
    alike = [gpu for gpu in GPUS.values() if words & ({*gpu.name.split("-")} - {"RTX"})]
    if not alike:
        return Device(product, memory, math.nan, math.nan)
    nearest = min(alike, key=lambda gpu: abs(gpu.memory - memory))
    return Device(product, memory, nearest.flops, nearest.bandwidth)
