"""Several machines (nodes) on one run: the same commands on each, over a shared file system.

At every command the nodes meet, and find out whether they were started alike. Node 0 leads: it decides what
is to be done, writes the run's files, and names the part of the stage that the others shall do as well.
Every node makes what it runs from its own checkout and recipe; a name is all that comes from another machine.
A node that fails, dies or falls silent ends all others, which print its cause.

What the nodes tell each other are keys of a store (messenger.py): `node/1` who is there, `facts/1` how it
was started, `next` the part to do, `done/1` the number of the last one done, `failed/1` why it ends, `left/1`
that it is leaving. A value that is not of the expected shape is taken for none. Whoever waits for something
calls `watch` again and again, which reads them.
"""

import contextlib
import multiprocessing
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from typing import TypeVar

import msgspec

from dice.errors import BadInput, StageFailed, printable
from dice.launch.console import say
from dice.launch.devices import master_address, node_count, node_rank
from dice.launch.failures import Failure, as_error, in_words, node_name
from dice.recipe.paths import ROOT

SILENCE = 30.0  # seconds without a sign of life after which a node is given up
LAST_WORDS = 3.0  # seconds in which nodes that end for one reason tell each other why
PATIENCE = 45.0  # seconds to wait for a node that was there a moment ago
FIRST_PATIENCE = 600.0  # seconds to wait for it at the first command of a loop
NO_NODE_0 = "environment: whoever answers at {} (MASTER_ADDR, MASTER_PORT + 1) is not node 0 of this run"
AGREED, OVER = "agreed", "over"  # how a command begins (its part number 0) and ends

Found = TypeVar("Found")
_current: "Meeting | None" = None


class Next(msgspec.Struct):
    """What all nodes are to do: the `number`-th part of this command."""

    number: int
    stage: str
    round: int
    part: str


class Meeting:
    """This node, number `rank` of `count`, at one command: at a stage of a round, or at another command."""

    def __init__(self, stage: str = "", t: int = 0, rank: int = 0, count: int = 1) -> None:
        self.stage, self.round, self.rank, self.count = stage, t, rank, count
        self.others = [node for node in range(count) if node != rank]
        self.seen: dict[str, bytes] = {}  # all keys of the store, at the last look
        self.number = 0  # of the last part
        self.channel = None
        if count > 1:
            self.host, port = master_address()
            self.address = f"{self.host}:{port + 1}"
            self.channel, theirs = multiprocessing.Pipe()
            command = [sys.executable, "-m", "dice.launch.messenger", str(theirs.fileno()), self.host]
            self.messenger = subprocess.Popen(
                [*command, str(port + 1), str(rank), str(count)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()], cwd=ROOT,
                start_new_session=True,  # it outlives the node's other processes, to tell of their death
            )  # fmt: skip
            theirs.close()
            self.asked = time.monotonic()
            self._send({})

    @property
    def leads(self) -> bool:
        """Whether this is node 0."""
        return self.rank == 0

    def meet(self) -> None:
        """Wait until all nodes are there. Raises StageFailed where one does not come."""
        patience = FIRST_PATIENCE if self.stage == "start" else PATIENCE
        begun, said = time.monotonic(), False
        while missing := [str(node) for node in self.others if not self.seen.get(f"node/{node}")]:
            self._pause()
            waited = time.monotonic() - begun
            if waited > 5 and not said:
                said = True
                say(f"waiting for {'the other nodes' if self.leads else 'node 0'} at {self.address}")
            if waited > patience:
                where = f"{self.stage}{f' of round {self.round}' if self.round else ''}"
                late = f"node {', '.join(missing)} has not come to {where} within {patience:.0f} s"
                why = printable(self.seen.get("why", b"").decode(errors="replace"))
                raise StageFailed(late + (f" ({self.address}: {why})" if why else ""))

    def agree(self, facts: Callable[[], dict[str, str]]) -> None:
        """Go on if all nodes were started alike: `facts`, name -> value in words, are the same on all.

        Raises BadInput where they are not, and StageFailed where a node does not tell all of them in time.
        """
        if self.count == 1:
            return
        ours = facts()
        if not self.leads:
            self._put("facts", msgspec.json.encode(ours).decode())
            self._wait(lambda: self._read("next", Next))
            return
        for node in self.others:
            theirs = self._facts(node, names=ours.keys())
            for name, value in ours.items():
                if theirs[name] != value:
                    raise BadInput(
                        f"{self._name(node)} and node 0 differ in their {name}: {theirs[name]} and {value}; "
                        "start every node with the same command"
                    )
        self.number = -1
        self.announce(AGREED)

    def _facts(self, node: int, names: Set[str]) -> dict[str, str]:
        """How another node was started. What lacks the names is a stranger's; the node soon sets its own."""
        begun = time.monotonic()

        def told() -> dict[str, str] | None:
            if time.monotonic() - begun > PATIENCE:
                late = f"it has not told how it was started within {PATIENCE:.0f} s"
                raise StageFailed(f"{self._name(node)}: {late}; all nodes need the same version of dice")
            found = self._read(f"facts/{node}", dict[str, str])
            return found if found and found.keys() == names else None

        return self._wait(told)

    def announce(self, part: str) -> None:
        """Have the other nodes do a part, of which this one does its own share."""
        self.number += 1
        if self.channel:
            message = Next(self.number, self.stage, self.round, part)
            self._send({"next": msgspec.json.encode(message).decode()})

    def gather(self) -> None:
        """Wait until the others have done the part."""
        for node in self.others:
            self._wait(lambda node=node: self._read(f"done/{node}", int) == self.number)

    def follow(self, parts: Callable[[], Mapping[str, Callable[[], object]]] = dict) -> None:
        """Do the parts that node 0 names, until the command is over; `parts` are those that it can have.

        Raises BadInput where node 0 names another one.
        """
        while (part := self._next()) != OVER:
            known = parts()
            if part not in known:
                there = ", ".join(known) or "none"
                raise BadInput(f"node 0 asks for part {part!r} of {self.stage}; this checkout has {there}")
            known[part]()
            self._put("done", str(self.number))

    def _next(self) -> str:
        """The next part, as soon as node 0 has named it."""
        self.number += 1

        def named() -> str | None:
            found = self._read("next", Next)
            here = found and (found.number, found.stage, found.round) == (self.number, self.stage, self.round)
            return found.part if here else None

        return self._wait(named)

    def watch(self) -> None:
        """See what is new. Raises what another node has failed of: StageFailed, or BadInput."""
        if self.channel:
            self._look()
            if failures := self.failures():
                raise as_error(failures)

    def failures(self) -> list[Failure]:
        """Why other nodes end, so far."""
        found = (self._read(f"failed/{node}", Failure) for node in self.others)
        return [failure for failure in found if failure]

    def _look(self) -> None:
        """Take the messenger's answer if there is one, and ask again."""
        met = bool(self.seen.get("next"))
        try:
            if self.channel.poll():
                self.seen = self.channel.recv()
                self.asked = time.monotonic()
                self._send({})
        except (EOFError, OSError):  # the messenger has ended
            if met and not self.leads:
                raise StageFailed(f"{self._name(0)}: its process is gone") from None
            if self.leads:
                raise StageFailed("the process that talks to the other nodes is gone") from None
            raise BadInput(NO_NODE_0.format(self.address)) from None
        if refusal := self.seen.get("refused"):
            raise BadInput(refusal.decode())
        if time.monotonic() - self.asked > SILENCE:
            if not met:
                raise BadInput(NO_NODE_0.format(self.address))
            raise StageFailed(f"{self._name(0)}: it has been silent for {SILENCE:.0f} s")

    def _pause(self) -> None:
        time.sleep(0.1)
        self.watch()

    def _wait(self, ready: Callable[[], Found]) -> Found:
        """What `ready` returns, as soon as it is something."""
        while not (found := ready()):
            self._pause()
        return found

    def _read(self, key: str, kind: type[Found]) -> Found | None:
        """A key's value; None where there is none of that kind."""
        try:
            return msgspec.json.decode(self.seen.get(key, b""), type=kind)
        except (msgspec.DecodeError, RecursionError):
            return None

    def _name(self, node: int) -> str:
        return node_name(node, self.seen.get(f"node/{node}", b""))

    def _put(self, what: str, value: str) -> None:
        self._send({f"{what}/{self.rank}": value})

    def _send(self, message: dict[str, str] | None) -> None:
        with contextlib.suppress(OSError):  # that the messenger has ended is noticed where it is asked
            self.channel.send(message)

    def end(self, error: BaseException | None = None) -> list[Failure]:
        """Leave, telling the others why if there is an error here; returns what they have failed of.

        It waits until they have heard of it: with node 0 goes the store.
        """
        if error:
            ours = node_name(self.rank, f"- {socket.gethostname()}")
            self._put("failed", Failure(ours, in_words(error), getattr(error, "status", 1)).encoded())
        self._put("left", "1")
        deadline = time.monotonic() + LAST_WORDS
        with contextlib.suppress(StageFailed, BadInput):  # the messenger, too, has ended
            while time.monotonic() < deadline and not all(map(self._gone, self.others)):
                self._look()
                time.sleep(0.1)
        return self.failures()

    def _gone(self, node: int) -> bool:
        return bool(self.seen.get(f"left/{node}") or self.seen.get(f"failed/{node}"))

    def close(self) -> None:
        """End the messenger."""
        self._send(None)
        try:
            self.messenger.wait(LAST_WORDS)
        except subprocess.TimeoutExpired:
            self.messenger.kill()
            self.messenger.wait()
        self.channel.close()


@contextlib.contextmanager
def meeting(stage: str, t: int = 0) -> Iterator[Meeting]:
    """Meet the other nodes for one command. With one node there is nobody to meet.

    What is raised inside ends the others, too. Raises StageFailed (or BadInput, as there) for what another
    node failed of, or where one does not come.
    """
    global _current
    if node_count() == 1:
        yield Meeting()
        return
    _current = present = Meeting(stage, t, node_rank(), node_count())
    try:
        present.meet()
        yield present
        if present.leads:
            present.announce(OVER)
        if failures := present.end():
            raise as_error(failures)
    except BaseException as error:
        heard = present.failures()
        from_here = not heard or str(error) != str(as_error(heard))
        failures = present.end(error if from_here else None)
        if not from_here:
            raise as_error(failures) from None
        if failures and isinstance(error, StageFailed):
            raise StageFailed(f"{error}\n{as_error(failures)}") from None
        raise
    finally:
        _current = None
        present.close()


def current() -> Meeting:
    """The meeting that this process is at; outside of any it is alone."""
    return _current or Meeting()
