"""Starting a stage's workers: output to the log, a bar on the terminal, failures passed on.

One worker is a plain process, several are torchrun's. NPROC_PER_NODE, NNODES, NODE_RANK,
MASTER_ADDR and MASTER_PORT mean what they mean to LLaMA-Factory; without NPROC_PER_NODE there is
one worker per GPU, or one where there is none.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from dice.errors import BadInput, StageFailed, clean
from dice.launch import complaint, devices, disk_errors, machines
from dice.launch.console import HELD, signals_held
from dice.launch.progress import Bar, Tally, read_counters, told_of
from dice.recipe.paths import ROOT

TAIL_LINES = 15
ENDING = 10.0  # seconds that a command has for ending when it is told to
# torch's own switch: torch.load makes tensors and plain values, and runs nothing, whatever its caller asks.
WEIGHTS_ONLY = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"}


def nothing_counted() -> Tally:
    """The `poll` of a command that does not count what it does."""
    return Tally(0, 0)


@dataclass(frozen=True)
class Launch:
    """One part of a stage as a command. Every node makes it for itself; only `part` goes over the network."""

    part: str
    label: str  # names the log and the bar
    log: Path  # node 0's; another node's is beside it
    arguments: Sequence[str]  # a file or `-m module`, and its arguments
    workers: int  # on this node
    unit: str  # of what `poll` counts
    poll: Callable[[], Tally | tuple[int, int]] = nothing_counted  # (done, total), for the bar
    env: dict[str, str] = field(default_factory=dict)
    torchrun: bool = True  # even for a single worker

    def run(self) -> None:
        """Run this node's workers. Raises as `run_logged` does."""
        meeting, command, log = machines.current(), [sys.executable, *self.arguments], self.log
        if self.torchrun or self.workers * meeting.count > 1:
            command = torchrun(self.arguments, self.workers)
        if not meeting.leads:
            log = log.with_name(f"{log.stem}.node-{meeting.rank}{log.suffix}")
        run_logged(command, log, self.label, self.unit, self.poll, self.env)

    def run_on_all_nodes(self) -> None:
        """Run the part here and on the nodes that were met. Raises as `run_logged` does."""
        meeting = machines.current()
        meeting.announce(self.part)
        self.run()
        meeting.gather()


class Workers(NamedTuple):
    """`work` of a module of the package, run once per worker: what `run_workers` takes."""

    module: str
    folder: Path  # workers count what they have done in FOLDER/STAGE.progress
    arguments: Sequence[str]  # of `work`, after its worker
    unit: str  # of what they count
    gpus_each: int = 1
    part: str = "workers"
    name: str = ""  # of log and progress, where it is not the last word of the module's

    @property
    def stage(self) -> str:
        """What names log and progress."""
        return self.name or self.module.rpartition(".")[2]

    @property
    def progress(self) -> Path:
        return self.folder / f"{self.stage}.progress"

    def launch(self) -> Launch:
        """How this node starts its own."""
        # On CPUs torchrun would give each worker one thread, and sums would be rounded differently than
        # in a single worker. The number of workers must not change results.
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(devices.cpu_count()))}
        return Launch(
            part=self.part,
            label=self.stage,
            log=self.folder / "logs" / f"{self.stage}.log",
            arguments=["-m", "dice.launch.worker", self.module, str(self.progress), *self.arguments],
            workers=devices.engines_per_node(self.gpus_each),
            unit=self.unit,
            poll=partial(read_counters, self.progress),
            env={} if devices.gpu_count() else threads,
            torchrun=False,
        )


def run_workers(*workers: object) -> None:
    """Run the `Workers` of these fields on all nodes, and wait for all of them.

    Raises BadInput where one of them found the input unusable, StageFailed where one broke.
    """
    ours = Workers(*workers)
    shutil.rmtree(ours.progress, ignore_errors=True)
    try:
        ours.launch().run_on_all_nodes()
    finally:
        shutil.rmtree(ours.progress, ignore_errors=True)


def torchrun(arguments: Sequence[str], workers: int) -> list[str]:
    """The command that runs a file or `-m module` with its arguments, in so many workers a node.

    A command at which no other nodes were met runs on this one alone, whatever address a cluster has set.
    """
    meeting = machines.current()
    address, port = ("127.0.0.1", _free_port()) if meeting.count == 1 else devices.master_address()
    command = [sys.executable, "-m", "dice.launch.torchrun", f"--nproc_per_node={workers}"]
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
    unit: str = "",
    poll: Callable[[], Tally | tuple[int, int]] = nothing_counted,
    env: dict[str, str] | None = None,
) -> None:
    """Run a command, its output appended to `log`, a bar (`poll` gives done and total) meanwhile.

    Raises StageFailed with the end of the log where the command fails; BadInput where it has complained of
    its input. Raises as `Meeting.watch` does, too. If this process dies, so does the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    complaints = log.with_suffix(".complaint")
    complaints.unlink(missing_ok=True)  # of an earlier attempt
    own = environment() | (env or {}) | {complaint.VARIABLE: str(complaints)}
    with disk_errors.naming(log), log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        process = None
        try:
            with signals_held():
                process = subprocess.Popen(
                    command, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
                    env=own, cwd=ROOT, preexec_fn=partial(_begin_child, os.getpid()),
                )  # fmt: skip
            with Bar(label, unit, told_of(poll, unit, log)) as bar:
                wait_for(process, bar.update)
        except (BadInput, StageFailed):  # of another node: this one may know the true cause
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=machines.LAST_WORDS / 3)
            if not process.returncode:
                raise
        finally:
            if process:  # Ctrl-C, say: the workers must not outlive this process
                end(process)
            clean(log)
    if process.returncode:
        failure = complaint.read(complaints, label) or _failure(label, process.returncode, log)
        complaints.unlink(missing_ok=True)
        raise failure


def wait_for(process: subprocess.Popen, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Wait for the end of a process. Raises what another node fails of meanwhile, as `Meeting.watch` does."""
    while process.poll() is None:
        meanwhile()
        machines.current().watch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.1)


def end(process: subprocess.Popen) -> None:
    """End a process, and with it what it has started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment() -> dict[str, str]:
    """The environment of what DICE starts: this one, with this checkout importable.

    What another launcher told is not in it: torchrun's command line has all that it needs, and it tells its
    workers anew.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if os.environ.get("DICE_DEVICE") == "cpu" else {}
    own = {**os.environ, **hidden, **WEIGHTS_ONLY, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
    devices.forget_launcher(own, "MASTER_ADDR", "MASTER_PORT")
    return own


def _failure(label: str, status: int, log: Path) -> StageFailed:
    """How a command failed that did not complain: what its disk refuses now, or else the end of its log."""
    if refused := disk_errors.refusal_of_writing(log.parent):
        return StageFailed(f"{label}: {refused}")
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    begun = max((index for index, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    tail = "\n".join(f"    {line[:300]}" for line in lines[begun + 1 :][-TAIL_LINES:])
    how = f"killed by {signal_name(-status)}" if status < 0 else f"status {status}"
    return StageFailed(f"{label} failed ({how}). The end of its log:\n{tail}\n  whole log: {log}")


def signal_name(number: int) -> str:
    """SIGKILL for 9, and so on."""
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
