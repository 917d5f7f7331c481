"""Connections between the nodes of a run: who is there, and lines of JSON between them.

Node 0 listens on the port above MASTER_PORT; the others connect to it at MASTER_ADDR. Like torchrun's own
rendezvous, it listens on all addresses of its machine and trusts the network between the nodes.
"""

import contextlib
import json
import os
import re
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from dice.errors import BadInput, StageFailed
from dice.launch.console import say

VARIABLES = ("NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")  # LLaMA-Factory's
PATIENCE = 45.0  # seconds to wait for a node that was there a moment ago
FIRST_PATIENCE = 600.0  # seconds to wait for it at the first command of a loop
LONGEST = 1 << 22  # bytes of a message
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # MASTER_ADDR where all nodes are on one machine


def node_count() -> int:
    """NNODES, 1 by default."""
    return number("NNODES", 1, 1)


def node_rank() -> int:
    """NODE_RANK, 0 by default. Raises BadInput where it is none of 0 to NNODES - 1.

    With one node it is 0 whatever is set: clusters export NODE_RANK to jobs that know nothing of it.
    """
    nodes = node_count()
    if nodes == 1:
        return 0
    rank = number("NODE_RANK", 0, 0)
    if rank >= nodes:
        raise BadInput(f"environment: NODE_RANK is {rank}; with NNODES {nodes} it is 0 to {nodes - 1}")
    return rank


def number(name: str, default: int, least: int) -> int:
    """A whole number from the environment. Raises BadInput where it is none, or too small."""
    value = os.environ.get(name) or str(default)
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) < least:
        raise BadInput(f"environment: {name} is {value!r}; it must be a number of at least {least}")
    return int(value)


def address() -> tuple[str, int]:
    """Where the others find node 0. Raises BadInput where MASTER_ADDR or MASTER_PORT is missing or none."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise BadInput(f"environment: NNODES is {node_count()}, so {name} must say where node 0 is")
    host = os.environ["MASTER_ADDR"]
    try:
        host.encode("idna")  # as the socket will
    except UnicodeError:
        raise BadInput(f"environment: MASTER_ADDR is {host!r}, which is no machine's name") from None
    return host, master_port() + 1


def master_port() -> int:
    """MASTER_PORT, torchrun's; 0 where it is not set. Raises BadInput where it is no port."""
    port = number("MASTER_PORT", 0, 0)
    if port > 65534:  # the one above it is needed as well
        raise BadInput(f"environment: MASTER_PORT is {port}; it must be at most 65534")
    return port


class Peer:
    """Another node: its socket, and what is known of it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.lock = connection, threading.Lock()
        self.rest, self.unread = b"", []  # received: a part of a line, and messages
        self.heard = self.told = time.monotonic()
        self.name = "a node"
        self.left = False  # as agreed, so that the end of the connection is no failure

    def tell(self, **message: Any) -> None:
        """Send a message; that the other side is gone is noticed by the one who listens."""
        with self.lock, contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(message).encode() + b"\n")
            self.told = time.monotonic()

    def hear(self, seconds: float) -> list[dict[str, Any]] | None:
        """Messages that came within so many seconds; None where the connection has ended."""
        if self.unread:
            unread, self.unread = self.unread, []
            return unread
        if not select.select([self.connection], [], [], seconds)[0]:
            return []
        try:
            received = self.connection.recv(1 << 16)
            if not received or len(self.rest) > LONGEST:
                return None
            self.heard = time.monotonic()
            *lines, self.rest = (self.rest + received).split(b"\n")
            return [dict(json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError):
            return None

    def close(self) -> None:
        """End the connection once the other side has read what it was told."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + 1
        while time.monotonic() < deadline and self.hear(0.1) is not None:
            pass
        self.connection.close()


def gather_peers(command: str) -> list[Peer]:
    """Node 0's side of a beginning: all other nodes, in the order of their ranks."""
    host, port = address()
    peers: dict[int, Peer] = {}
    patience = _patience(command)
    deadline = time.monotonic() + patience
    with _listening(host, port) as server, _saying(f"waiting for the other nodes to come to {host}:{port}"):
        while len(peers) < node_count() - 1:
            if time.monotonic() > deadline:
                missing = ", ".join(str(rank) for rank in range(1, node_count()) if rank not in peers)
                text = f"node {missing} has not come to {command} within {patience:.0f} s"
                raise _refused(list(peers.values()), StageFailed(text))
            comer = _next_comer(server)
            _drop_those_gone(peers)  # after that: one of them may have been started again
            if comer:
                peer, hello = comer
                rank = hello.get("node")
                if problem := _problem(hello, rank in peers):
                    raise _refused([*peers.values(), peer], BadInput(problem))
                peer.name = f"node {rank} ({hello.get('host')})"
                peers[rank] = peer
    for peer in peers.values():
        peer.tell(welcome=socket.gethostname())
    return [peers[rank] for rank in sorted(peers)]


def _patience(command: str) -> float:
    """Seconds to wait for the other nodes."""
    return FIRST_PATIENCE if command == "start" else PATIENCE


def _next_comer(server: socket.socket) -> tuple[Peer, dict[str, Any]] | None:
    """Whoever connects within half a second, with what it says first; None where that is nobody."""
    if not select.select([server], [], [], 0.5)[0]:
        return None
    peer = Peer(server.accept()[0])
    if messages := _first(peer):
        return peer, messages[0]
    peer.connection.close()
    return None


def _drop_those_gone(peers: dict[int, Peer]) -> None:
    """A node that was ended while others are awaited may come again."""
    for rank, peer in list(peers.items()):
        if peer.hear(0) is None:  # they say nothing before they are welcomed
            peers.pop(rank).connection.close()


def _first(peer: Peer) -> list[dict[str, Any]]:
    """The first messages of a peer, of which there is one; none where it says nothing within some seconds."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        messages = peer.hear(1.0)
        if messages or messages is None:
            return messages or []
    return []


def _problem(hello: dict[str, Any], there: bool) -> str | None:
    """Why a node can't take part, if so. `there`: one of its rank does already."""
    rank = hello.get("node")
    if not isinstance(rank, int) or not 1 <= rank < node_count():
        return f"{hello.get('host')} says that it is node {rank!r}; with NNODES {node_count()} there is none"
    return f"two nodes say that they are node {rank}; NODE_RANK must differ" if there else None


def _refused(peers: list[Peer], error: BadInput | StageFailed) -> BadInput | StageFailed:
    for peer in peers:
        peer.tell(failed=str(error), status=error.status)
        peer.close()
    return error


def _listening(host: str, port: int) -> socket.socket:
    """A listening socket: on all of this machine's addresses, by IPv6 and IPv4.

    The name in MASTER_ADDR may lead to a loopback address here, and elsewhere not: Debian's /etc/hosts has
    127.0.1.1 for a machine's own name. Only where MASTER_ADDR is plain loopback, no other machine gets in.
    """
    place = host if host in LOOPBACK else ""
    both = not place and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in place else socket.AF_INET
    try:
        return socket.create_server((place, port), family=family, backlog=node_count(), dualstack_ipv6=both)
    except OSError as error:
        text = f"environment: port {port} (MASTER_PORT + 1) of {host} can't be listened on ({error})"
        raise BadInput(text) from None


def join(rank: int, command: str) -> Peer:
    """Another node's side: the connection to node 0."""
    host, port = address()
    patience = _patience(command)
    deadline = time.monotonic() + patience
    with _saying(f"waiting for node 0 at {host}:{port}"):
        while True:
            try:
                peer = Peer(socket.create_connection((host, port), timeout=5))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    late = f"has not come to {command} within {patience:.0f} s"
                    raise StageFailed(f"node 0 ({host}:{port}) {late} ({error})") from None
                time.sleep(0.3)
        peer.connection.settimeout(None)
        peer.name = f"node 0 ({host})"
        peer.tell(node=rank, host=socket.gethostname())
        return _welcomed(peer, deadline, command)


@contextlib.contextmanager
def _saying(what: str) -> Iterator[None]:
    """Say what is waited for, once that takes some seconds."""
    timer = threading.Timer(5, say, [what])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _welcomed(peer: Peer, deadline: float, command: str) -> Peer:
    """Wait until all nodes are there."""
    while time.monotonic() < deadline + 5:  # node 0 began to wait a little later, perhaps
        messages = peer.hear(0.2)
        if messages is None:
            raise StageFailed(f"{peer.name}: its process is gone")
        for index, message in enumerate(messages):
            if "failed" in message:
                kind = BadInput if message.get("status") == BadInput.status else StageFailed
                raise kind(f"{peer.name}: {message['failed']}")
            if "welcome" in message:
                peer.name, peer.unread = f"node 0 ({message['welcome']})", messages[index + 1 :]
                return peer
    raise StageFailed(f"{peer.name}: not all nodes have come to {command}")
