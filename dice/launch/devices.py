"""What a run may use: GPUs and processors of this machine, and the machines that the environment names."""

import os
import re
import shutil
import subprocess
from collections.abc import MutableMapping
from functools import cache

from dice.errors import BadInput, counted

NODE_VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # LLaMA-Factory's and torchrun's
# What torchrun, srun, MPI and Kubernetes' training operator tell the workers that they start. PET_* are
# torchrun's own arguments; accelerate and DeepSpeed believe MPI's variables.
LAUNCHER_VARIABLES = re.compile(
    "RANK|WORLD_SIZE|(LOCAL|GROUP|ROLE)_(RANK|WORLD_SIZE)|ROLE_NAME|(TORCHELASTIC|PET|PMIX?)_.+"
    "|(OMPI|MV2)_COMM_WORLD_.+|MPI_LOCAL(RANKID|NRANKS)"
)
# Kubernetes calls the address of a service "master" MASTER_PORT, and gives it as a URL.
PORTS = ("MASTER_PORT", "VLLM_PORT")


def forget_launcher(variables: MutableMapping[str, str], *also: str) -> None:
    """Remove from an environment what is told to a launcher's workers, which this process is none of."""
    for name, value in [*variables.items()]:
        service = name in PORTS and "://" in value
        if service or name in also or LAUNCHER_VARIABLES.fullmatch(name):
            del variables[name]


def gpus() -> list[str]:
    """The NVIDIA GPUs that CUDA would use here, as CUDA_VISIBLE_DEVICES names them.

    As CUDA does, this reads that variable up to the first name that is no GPU's; where a GPU is named twice
    there is none; of parts of GPUs (MIG) a process gets one. DICE_DEVICE=cpu hides all. torch is not
    loaded for it. Without nvidia-smi what looks like a GPU's name is taken for one.
    """
    if os.environ.get("DICE_DEVICE") == "cpu":
        return []
    visible, here = os.environ.get("CUDA_VISIBLE_DEVICES"), _gpus_here(shutil.which("nvidia-smi"))
    if visible is None:
        visible = ",".join(map(str, range(len(here or ()))))
    kind = re.match("(GPU|MIG)-|", visible)[0]  # of the first name, and of all others
    found: dict[int | str, str] = {}
    for name in map(str.strip, visible.split(",")):
        gpu = _meant(name, kind, here)
        if gpu is None:
            break
        if gpu in found:
            return []
        found[gpu] = name
    parted = [name for gpu, name in found.items() if kind == "MIG-" or (here and "UUID: MIG-" in here[gpu])]
    return parted[:1] or [*found.values()]


def _meant(name: str, kind: str, here: list[str] | None) -> int | str | None:
    """The GPU that a name stands for: its number in `here`, or the name where that is not known."""
    if not kind:  # an index; CUDA passes over what follows its digits
        index = re.match(r"[+]?([0-9]{1,9})", name)
        return int(index[1]) if index and (here is None or int(index[1]) < len(here)) else None
    if not name.startswith(kind):
        return None
    if here is None or (kind == "MIG-" and any(f"UUID: {name}" in gpu for gpu in here)):
        return name
    fitting = [index for index, listed in enumerate(here) if f"UUID: {name}" in listed.partition("\n")[0]]
    return fitting[0] if len(fitting) == 1 else None  # the beginning of a UUID is enough if it is one GPU's


@cache
def _gpus_here(program: str | None) -> list[str] | None:
    """What nvidia-smi lists of each GPU: a line, and one for each of its parts; None without nvidia-smi."""
    if not program:
        return None
    listed = subprocess.run([program, "--list-gpus"], capture_output=True, text=True).stdout
    return re.findall(r"^GPU .*(?:\n +MIG .*)*", listed, re.MULTILINE)


def gpu_count() -> int:
    """How many `gpus` there are."""
    return len(gpus())


def cpu_has_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16 matrices: AMX or AVX512-BF16."""
    from torch import cpu

    return any(cpu.get_capabilities().get(name) for name in ("amx_bf16", "avx512_bf16"))


def dtype_name(dtype: str) -> str:
    """What a recipe's `dtype` is here: `auto` is bfloat16 on GPUs and `cpu_has_bfloat16`, else float32."""
    if dtype != "auto":
        return dtype
    from torch.backends import mps

    is_fast = gpu_count() > 0 or mps.is_available() or cpu_has_bfloat16()
    return "bfloat16" if is_fast else "float32"


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers_per_node() -> int:
    """NPROC_PER_NODE; by default one worker per GPU, or one.

    Raises BadInput where there are GPUs, but not one for each worker.
    """
    gpus = gpu_count()
    workers = _number("NPROC_PER_NODE", max(1, gpus), 1)
    if workers > gpus > 0:
        raise BadInput(f"environment: NPROC_PER_NODE is {workers}, more than the {counted(gpus, 'GPU')} here")
    return workers


def process_count() -> int:
    """Workers on all nodes together."""
    return workers_per_node() * node_count()


def engines_per_node(gpus_each: int) -> int:
    """How many workers of so many GPUs each this machine has room for: NPROC_PER_NODE counts GPUs then.

    Raises BadInput where the GPUs can't be shared out evenly.
    """
    processes = workers_per_node()
    if gpus_each > 1 and not gpu_count():
        raise BadInput(f"generate.tensor_parallel is {gpus_each}, but there is no GPU")
    if processes % gpus_each:
        fitting = ", ".join(str(n) for n in range(1, processes + 1) if processes % n == 0)
        raise BadInput(
            f"generate.tensor_parallel is {gpus_each}, which {counted(processes, 'GPU')} can't be shared out "
            f"by; it can be {fitting}, or set NPROC_PER_NODE to a multiple of it"
        )
    return processes // gpus_each


def node_count() -> int:
    """NNODES, 1 by default."""
    return _number("NNODES", 1, 1)


def node_rank() -> int:
    """NODE_RANK, 0 by default. Raises BadInput where it is none of 0 to NNODES - 1.

    With one node it is 0 whatever is set: clusters export NODE_RANK to jobs that know nothing of it.
    """
    nodes = node_count()
    if nodes == 1:
        return 0
    rank = _number("NODE_RANK", 0, 0)
    if rank >= nodes:
        raise BadInput(f"environment: NODE_RANK is {rank}; with NNODES {nodes} it is 0 to {nodes - 1}")
    return rank


def master_address() -> tuple[str, int]:
    """MASTER_ADDR and MASTER_PORT, where torchrun's processes find node 0.

    Raises BadInput where one of them is missing, is no machine's name or is no port.
    """
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise BadInput(f"environment: NNODES is {node_count()}, so {name} must say where node 0 is")
    host = os.environ["MASTER_ADDR"]
    try:
        host.encode("idna")  # as the socket will
    except UnicodeError:
        raise BadInput(f"environment: MASTER_ADDR is {host!r}, which is no machine's name") from None
    port = _number("MASTER_PORT", 0, 1)
    if port > 65534:  # the nodes meet on the one above it
        raise BadInput(f"environment: MASTER_PORT is {port}; it must be at most 65534")
    return host, port


def _number(name: str, default: int, least: int) -> int:
    """A whole number from the environment. Raises BadInput where it is none, or too small."""
    value = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
        raise BadInput(f"environment: {name} is {value!r}; it must be a number of at least {least}")
    return int(value)
