"""Imported by every Python that starts with this folder on PYTHONPATH: notes changes of files, dies at one.

Python tells its audit hooks of a file that is opened for writing, renamed or removed, and of a folder that
is made or removed, just before it happens. Each such change below CRASH_FOLDER becomes a line of CRASH_LOG:

    time in seconds<TAB>stage<TAB>change<TAB>"" or "killed"

A change that CRASH_POINTS names (lines of change<TAB>signal<TAB>whom) ends what it says: the process
`group` of the loop, the `loop` (CRASH_LOOP) alone, or the `process` alone. Without CRASH_FOLDER
nothing happens.
"""

import os
import re
import signal
import sys
import time
from collections import Counter

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Where a change happens: index of the path among an event's arguments, and of its folder's descriptor.
CHANGES = {
    "open": (0, None),
    "os.rename": (1, 3),
    "os.remove": (0, 1),
    "os.mkdir": (0, 2),
    "os.rmdir": (0, 1),
}
STAGES = ("generate", "score", "pair", "train", "evaluate")
SCORING = {"dice.rewards.scoring": "score"}


def stage_of(command: list[str]) -> str:
    """Which stage of the loop a Python process works for: "train 1", "evaluate", "start"."""
    words = " ".join(command[1:])
    if "inference.fake" in words or "src/train.py" in words:
        stage = "train"
    else:
        # Of a worker, its module.
        names = (SCORING.get(word, word.removeprefix("dice.stages.")) for word in command[1:])
        stage = next((name for name in names if name in STAGES), "start")
    if stage in ("start", "evaluate"):
        return stage
    number = re.search(r"round-(\d+)/", words) or re.search(r" (\d+)$", words)
    return f"{stage} {number[1]}"


class Watch:
    """An audit hook."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.stage = stage_of(sys.orig_argv)
        self.log = os.open(os.environ["CRASH_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.seen: Counter[str] = Counter()
        with open(os.environ["CRASH_POINTS"], encoding="utf-8") as points:
            self.points = dict(line.rstrip("\n").split("\t", 1) for line in points)

    def __call__(self, event: str, args: tuple) -> None:
        if event not in CHANGES or (event == "open" and not (args[2] or 0) & WRITING):
            return
        where, beside = CHANGES[event]
        path = os.fsdecode(args[where]) if isinstance(args[where], str | bytes | os.PathLike) else ""
        if path and beside is not None and args[beside] != -1:  # relative to an open folder
            path = os.path.join(os.readlink(f"/proc/self/fd/{args[beside]}"), path)
        if event == "os.mkdir" and os.path.isdir(path) or event == "os.remove" and not os.path.lexists(path):
            return  # nothing changes
        if path.startswith(self.folder + os.sep):
            self.reached(event, re.sub(r"[.]\d+[.]tmp$", ".tmp", path[len(self.folder) + 1 :]))

    def reached(self, event: str, path: str) -> None:
        """A change is about to happen: its name is the same in every run of the loop."""
        name = f"{self.stage}: {event} {path}"
        self.seen[name] += 1
        name += f" ({self.seen[name]})"
        order = self.points.pop(name, "")
        note = f"{time.monotonic()}\t{self.stage}\t{name}\t{'killed' if order else ''}\n"
        os.write(self.log, note.encode())
        if order:
            self.kill(*order.split("\t"))

    def kill(self, number: str, whom: str) -> None:
        loop = int(os.environ["CRASH_LOOP"])
        if whom == "group":
            os.killpg(loop, int(number))
            if int(number) == signal.SIGKILL:  # torchrun's workers are in a group of their own
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            os.kill(loop if whom == "loop" else os.getpid(), int(number))


if watched := os.environ.get("CRASH_FOLDER"):
    sys.addaudithook(Watch(watched))
