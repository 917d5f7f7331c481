"""Several machines on one run: the same commands on each, over a shared file system.

At every command the nodes meet, and then find out whether they were started alike. Node 0 leads: it alone
decides what is to be done, writes the run's files, and tells the others which workers to start. The others do
their part, and leave when it is done. A node that fails, dies or falls silent interrupts all others, which
print its cause.
"""

import contextlib
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dice.errors import BadInput, StageFailed
from dice.launch import disk_errors
from dice.launch.peers import Peer, gather_peers, join, node_count, node_rank

BEAT = 2.0  # seconds between signs of life
SILENCE = 30.0  # seconds without one after which a node is given up
LAST_WORDS = 4.0  # seconds in which the node that failed first, maybe another one, can say why

_current: "Meeting | None" = None


class Meeting:
    """This node, of `count`, at one command, among `peers`: all others where it leads, else node 0 alone."""

    def __init__(self, command: str = "", rank: int = 0, count: int = 1, peers: Sequence[Peer] = ()) -> None:
        self.command, self.rank, self.count, self.peers = command, rank, count, peers
        self.causes: dict[str, str] = {}  # node -> why it failed
        self.status = 1
        self.heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.closing = False  # from now on the others' failures interrupt nothing
        self.closed = False
        self.result: dict[str, Any] | None = None

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def agree(self, facts: Callable[[], dict[str, str]]) -> None:
        """Go on if all nodes were started alike: `facts`, name -> value in words, are the same on all.

        Raises BadInput where they are not.
        """
        if self.count == 1:
            return
        ours = {"command": self.command, **facts()}
        if not self.leads:
            self.peers[0].tell(facts=ours, name=f"node {self.rank} ({socket.gethostname()})")
            self._next()
            return
        for _ in self.peers:
            message = self._next()
            for name, value in ours.items():
                if (theirs := message["facts"].get(name)) != value:
                    raise BadInput(
                        f"{message['name']} and node 0 differ in their {name}: {theirs} and {value}; "
                        "start every node with the same command"
                    )
        for peer in self.peers:
            peer.tell(agreed=True)

    def announce(self, task: dict[str, Any]) -> None:
        """Have the other nodes do a task, of which this one does its own part."""
        for peer in self.peers:
            peer.tell(task=task)

    def gather(self) -> None:
        """Wait until the others are done with a task."""
        for _ in self.peers:
            self._next()

    def tasks(self) -> Iterator[dict[str, Any]]:
        """What node 0 wants done, until it has its `result`."""
        while True:
            message = self._next()
            if "task" not in message:
                self.result = message.get("result")
                return
            yield message["task"]
            for peer in self.peers:
                peer.tell(ended=True)

    def wait(self) -> None:
        """Wait for the end of something that node 0 does alone."""
        for _ in self.tasks():
            pass

    def conclude(self, result: dict[str, Any] | None = None) -> None:
        """Let the others go, with the result."""
        for peer in self.peers:
            peer.left = True
            peer.tell(result=result)

    def _next(self) -> dict[str, Any]:
        while True:  # in small steps: a signal can't get through to a thread that waits for good
            if self.causes:
                raise self.failure()
            with contextlib.suppress(queue.Empty):
                return self.heard.get(timeout=0.2)

    def listen(self, peer: Peer) -> None:
        """In a thread of its own: pass a peer's messages on, and notice when it is gone."""
        while not self.closed:
            messages = peer.hear(0.2)
            if messages is None:
                if not peer.left:
                    self._lost(peer, "its process is gone")
                return
            for message in messages:
                if "failed" in message:
                    self.status = message.get("status", 1)
                    self._lost(peer, str(message["failed"]))
                    return
                if "result" in message:
                    peer.left = True
                if "alive" not in message:
                    self.heard.put(message)
            now = time.monotonic()
            if now - peer.heard > SILENCE and not peer.left:
                self._lost(peer, f"it has been silent for {SILENCE:.0f} s")
                return
            if now - peer.told > BEAT:
                peer.tell(alive=True)

    def _lost(self, peer: Peer, cause: str) -> None:
        self.causes[peer.name] = cause
        if not self.closing:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def failure(self) -> BadInput | StageFailed:
        """What the others failed of."""
        kind, between = (BadInput, "; ") if self.status == BadInput.status else (StageFailed, "\n")
        return kind(between.join(f"{name}: {cause}" for name, cause in self.causes.items()))


@contextlib.contextmanager
def meeting(command: str) -> Iterator[Meeting]:
    """Meet the other nodes for one command. With one node there is nobody to meet.

    What is raised inside ends the others, too. Raises StageFailed (or BadInput, as there) for what another
    node failed of, or where one does not come.
    """
    global _current
    if node_count() == 1:
        yield Meeting()
        return
    rank = node_rank()
    peers = gather_peers(command) if rank == 0 else [join(rank, command)]
    _current = present = Meeting(command, rank, node_count(), peers)
    before = signal.signal(signal.SIGUSR1, lambda *_: _interrupt(present))
    listeners = [threading.Thread(target=present.listen, args=[peer], daemon=True) for peer in peers]
    for listener in listeners:
        listener.start()
    try:
        yield present
        if rank == 0 and not all(peer.left for peer in peers):
            present.conclude()
    except BaseException as error:
        present.closing = True
        raise _parting(present, error) from None
    finally:
        present.closing = present.closed = True
        _current = None
        for listener in listeners:
            listener.join(BEAT)
        signal.signal(signal.SIGUSR1, before)
        for peer in peers:
            peer.close()


def current() -> Meeting:
    """The meeting that this process is at; outside of any it is alone."""
    return _current or Meeting()


def _interrupt(present: Meeting) -> None:
    if not present.closing:
        raise present.failure()


def _parting(present: Meeting, error: BaseException) -> BaseException:
    """Tell the others why this node ends, and hear whether one of them has a reason, too."""
    from_here = not present.causes or str(error) != str(present.failure())
    if from_here or present.leads:  # node 0 passes on what a node failed of
        for peer in present.peers:
            peer.tell(failed=in_words(error), status=getattr(error, "status", 1))
    if present.causes or not isinstance(error, StageFailed):
        return error
    deadline = time.monotonic() + LAST_WORDS
    while time.monotonic() < deadline and not present.causes:
        time.sleep(0.1)
    return StageFailed(f"{error}\n{present.failure()}") if present.causes else error


def in_words(error: BaseException) -> str:
    """An error for those who don't see its traceback."""
    if isinstance(error, BadInput | StageFailed):
        return str(error)
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "it was interrupted"
    refused = disk_errors.refusal(error) if isinstance(error, OSError) else None
    return refused or f"{type(error).__name__}: {error}"
