"""What a run may use: GPUs and processors of this machine, and the machines that the environment names."""

import os
import re
import shutil
import subprocess

from dice.errors import BadInput, counted

NODE_VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # LLaMA-Factory's and torchrun's


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use, found without loading torch; DICE_DEVICE=cpu hides them."""
    if os.environ.get("DICE_DEVICE") == "cpu":
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")])
    if not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


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
    return host, master_port()


def master_port() -> int:
    """MASTER_PORT; 0 where it is not set. Raises BadInput where it is no port."""
    port = _number("MASTER_PORT", 0, 0)
    if port > 65534:  # the nodes meet on the one above it
        raise BadInput(f"environment: MASTER_PORT is {port}; it must be at most 65534")
    return port


def _number(name: str, default: int, least: int) -> int:
    """A whole number from the environment. Raises BadInput where it is none, or too small."""
    value = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
        raise BadInput(f"environment: {name} is {value!r}; it must be a number of at least {least}")
    return int(value)
