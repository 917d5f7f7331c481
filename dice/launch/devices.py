"""What this machine has: GPUs, processors, and how many workers share them."""

import os
import shutil
import subprocess

from dice.errors import BadInput, counted
from dice.launch.peers import node_count, number


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
    workers = number("NPROC_PER_NODE", max(1, gpus), 1)
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
