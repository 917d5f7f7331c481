"""Starting a stage's workers: output to the log, a bar on the terminal, failures passed on.

One worker is a plain process, several are torchrun's. NPROC_PER_NODE, NNODES, NODE_RANK,
MASTER_ADDR and MASTER_PORT mean what they mean to LLaMA-Factory; without NPROC_PER_NODE there is
one worker per GPU, or one where there is none.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from dice.errors import BadInput, StageFailed, clean, printable
from dice.launch import devices, disk_errors, machines
from dice.launch.console import HELD, signals_held
from dice.launch.peers import master_port, node_count
from dice.launch.progress import Bar, Tally, read_counters
from dice.recipe.keys import ROOT

TAIL_LINES = 15
ENDING = 10.0  # seconds that a command has for ending when it is told to
# After a worker's own last words torchrun prints a long table of its own; the cause is above it.
TORCHRUN_VERDICT = re.compile(r"elastic/multiprocessing/api\.py.* failed (.exitcode: (?P<status>-?\d+))?")


@dataclass(frozen=True)
class Task:
    """What torchrun is to run: the same on every node, on each with its own workers."""

    arguments: list[str]  # a file or `-m module`, and its arguments
    workers: int  # per node
    label: str
    log: str  # node 0's; another node's is beside it
    complaint: str  # where a worker says that its input can't be used
    env: dict[str, str]


def run_task(task: Task, unit: str, poll: Callable[[], Tally | tuple[int, int]]) -> None:
    """Run a task on this node and on all others that it has met. Raises as `run_logged` does."""
    Path(task.complaint).unlink(missing_ok=True)  # of an earlier attempt
    meeting = machines.current()
    meeting.announce(asdict(task))
    run_logged(
        torchrun(task.arguments, task.workers),
        Path(task.log),
        task.label,
        unit,
        poll,
        task.env,
        Path(task.complaint),
    )
    meeting.gather()


def follow(meeting: machines.Meeting) -> None:
    """Another node's part of what node 0 does at a meeting."""
    for announced in meeting.tasks():
        task = Task(**announced)
        log = Path(task.log)
        log = log.with_name(f"{log.stem}.node-{meeting.rank}{log.suffix}")
        command = torchrun(task.arguments, task.workers)
        run_logged(command, log, task.label, "", lambda: (0, 0), task.env, Path(task.complaint))


def torchrun(arguments: Sequence[str], workers: int) -> list[str]:
    """The command that runs a file or `-m module` with its arguments, in so many workers a node.

    A command at which no other nodes were met runs on this one alone.
    """
    meeting = machines.current()
    met = meeting.count == node_count()
    port = (met and master_port()) or _free_port()
    address = (met and os.environ.get("MASTER_ADDR")) or "127.0.0.1"
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={workers}"]
    command += [f"--nnodes={meeting.count}", f"--node_rank={meeting.rank}"]
    return [*command, f"--master_addr={address}", f"--master_port={port}", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_logged(
    command: Sequence[str],
    log: Path,
    label: str,
    unit: str,
    poll: Callable[[], Tally | tuple[int, int]],
    env: dict[str, str] | None = None,
    complaint: Path | None = None,
) -> None:
    """Run a command, its output appended to `log`, a bar (`poll` gives done and total) meanwhile.

    Raises StageFailed with the end of the log where the command fails; BadInput where it has left a
    `complaint` about its input. If this process dies, so does the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors.naming(log), log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        process = None
        try:
            with signals_held():
                process = subprocess.Popen(
                    command, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                    env=environment() | (env or {}), cwd=ROOT, preexec_fn=partial(_begin_child, os.getpid()),
                )  # fmt: skip
            with Bar(label, unit, poll) as bar:
                while process.poll() is None:
                    bar.update()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=0.1)
        except BaseException as error:  # Ctrl-C, say: the workers must not outlive this process
            if process and (own := _end(process)) and machines.current().causes:
                raise StageFailed(f"{_failure(label, own, log)}\n{error}") from None
            raise
        finally:
            clean(log)
    if process.returncode and complaint and complaint.is_file():
        raise BadInput(complaint.read_text(encoding="utf-8"))
    if process.returncode:
        raise StageFailed(_failure(label, process.returncode, log))


def _end(process: subprocess.Popen) -> int | None:
    """End a command and what it has started, which dies with it; its status where it failed by itself.

    Where another node has failed, this one may be about to: for the same reason, or the true one.
    """
    if machines.current().causes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=machines.LAST_WORDS / 2)
    process.terminate()
    try:
        process.wait(timeout=ENDING)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    return None


def run_workers(module: str, folder: Path, arguments: Sequence[str], unit: str, gpus_each: int = 1) -> None:
    """Run `work` of a module of the package once per worker, and wait for all of them.

    A worker has a GPU, or `gpus_each` of them. Workers count what they have done in
    FOLDER/STAGE.progress, STAGE being the last word of the module's name.

    Raises BadInput with the worker's message where one of them found the input unusable, StageFailed where
    one broke.
    """
    stage = module.rpartition(".")[2]
    progress = folder / f"{stage}.progress"
    shutil.rmtree(progress, ignore_errors=True)
    command = ["-m", "dice.launch.worker", module, str(progress), *arguments]
    workers = devices.engines_per_node(gpus_each)
    # On CPUs torchrun would give each worker one thread, and sums would be rounded differently than
    # in a single worker. The number of workers must not change results.
    threads = (
        {}
        if devices.gpu_count()
        else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(devices.cpu_count()))}
    )
    log, complaint = folder / "logs" / f"{stage}.log", progress / "bad-input.txt"

    def poll() -> Tally:
        return read_counters(progress)

    try:
        if workers * machines.current().count > 1:
            run_task(Task(command, workers, stage, str(log), str(complaint), threads), unit, poll)
        else:
            run_logged([sys.executable, *command], log, stage, unit, poll, threads, complaint)
    finally:
        shutil.rmtree(progress, ignore_errors=True)


def environment() -> dict[str, str]:
    """The environment of what DICE starts: this one, with this checkout importable."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if os.environ.get("DICE_DEVICE") == "cpu" else {}
    return {**os.environ, **hidden, **WEIGHTS_ONLY, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _failure(label: str, status: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    begun = max((index for index, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    said, verdict = lines[begun + 1 :], ""
    for index, line in enumerate(said):
        if found := TORCHRUN_VERDICT.search(line):
            said, verdict = said[:index], found["status"] or ""
            break
    if refused := disk_errors.told(said[-TAIL_LINES:]) or disk_errors.tried(log.parent):
        return f"{label}: {printable(refused)}"
    refused = disk_errors.cause(said[-TAIL_LINES:])
    if verdict.startswith("-"):  # a signal, so the worker has said nothing of it
        said.append(f"a worker was killed by {_signal_name(-int(verdict))}")
    tail = "\n".join(f"    {printable(line[:300])}" for line in said[-TAIL_LINES:])
    how = f"killed by {_signal_name(-status)}" if status < 0 else f"status {status}"
    why = f": {printable(refused)}" if refused else f" failed ({how})"
    return f"{label}{why}. The end of its log:\n{tail}\n  whole log: {log}"


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):  # real-time signals have no names
        return signal.Signals(number).name
    return f"signal {number}"


def _begin_child(parent: int) -> None:
    """What a command does before it is one: it takes the signals that were held back, and dies with us."""
    for one in HELD:
        signal.signal(one, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD)
    die_with_parent(parent)


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when its parent dies (elsewhere: nothing).

    torchrun starts workers in sessions of their own, so a signal to a run's process group would
    miss them, and they would go on writing beside the run that replaces them. `parent` is the
    parent's process id where it is known, in case it died before this call.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if parent not in (None, os.getppid()):
            os._exit(1)


# torch's own switch: torch.load makes tensors and plain values, and runs nothing, whatever its caller asks.
WEIGHTS_ONLY = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}
