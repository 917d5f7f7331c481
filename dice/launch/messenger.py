"""The process beside a node's own that talks to the other nodes, through `torch.distributed.TCPStore`.

    python -m dice.launch.messenger DESCRIPTOR HOST PORT RANK NODES

Node 0's messenger hosts the store; the others connect to it. DESCRIPTOR is one end of a pipe to the node's
own process (machines.py), which sends keys to set, and gets all keys of all nodes for every empty message.

It is a process of its own for three reasons. A call of TCPStore does not return while node 0's machine is
gone, or while a program that says nothing has its port. A process that was killed can't tell the others. And
what a stranger sends to the port does not reach the process that works on the run.

TCPStore's server with libuv closes a connection that does not speak its protocol, and goes on. (The one
without waits for the rest of half a message, and serves nobody else meanwhile.)
"""

import os
import signal
import socket
import sys
import time
from datetime import timedelta
from multiprocessing.connection import Connection
from uuid import uuid4

from torch.distributed import DistError, DistNetworkError, DistStoreError, TCPStore

from dice.launch.failures import LONGEST, Failure, node_name
from dice.launch.machines import NO_NODE_0, SILENCE

PAUSE = 0.2  # seconds between two looks at the store
TIMEOUT = 5.0  # seconds for one answer of the store
LOOPBACK = ("localhost", "127.0.0.1", "::1")  # MASTER_ADDR where all nodes are on one machine
OF_A_NODE = ("node", "facts", "done", "failed", "left")  # keys that every node sets: "node/1", "facts/1", ...
GONE = (EOFError, ConnectionError)  # what reading from a process or writing to it meets with that is gone


class Refused(Exception):
    """This node can't take part. The message becomes a BadInput of the node's own process."""


class Messenger:
    """Node `rank` of `nodes`, for the process at the other end of `channel`."""

    def __init__(self, channel: Connection, host: str, port: int, rank: int, nodes: int) -> None:
        self.channel, self.host, self.port, self.rank, self.nodes = channel, host, port, rank, nodes
        self.name = f"{uuid4().hex} {socket.gethostname()}"
        self.own: dict[str, str] = {}  # what this node has set; it is set anew at every look
        self.beats = 0
        self.heard: dict[int, tuple[bytes, float]] = {}  # node -> its last beat, and when that was seen
        self.met = False  # whether node 0 has said what is next, which it does once all nodes are there

    def run(self) -> None:
        """Talk to the others until the node's process leaves or is gone."""
        try:
            store = self.open() if self.rank == 0 else self.join()
            while store and not self.attend(store):
                store = self.join()  # that was node 0's store of an earlier command, which was being closed
        except Refused as error:
            self.channel.send({"refused": str(error).encode()})
        except GONE:
            pass  # the node's process is gone, and the others know

    def open(self) -> TCPStore:
        """Host the store. Raises Refused where the port can't be listened on."""
        try:
            server = listen(self.host, self.port)
        except OSError as error:
            what = f"port {self.port} (MASTER_PORT + 1) of {self.host} can't be listened on ({error})"
            raise Refused(f"environment: {what}") from None
        self.own = {"nodes": str(self.nodes), "node/0": self.name}
        loopback = "::1" if self.host == "::1" else "127.0.0.1"
        return TCPStore(
            loopback, self.port, is_master=True, timeout=timedelta(seconds=TIMEOUT), wait_for_workers=False,
            master_listen_fd=server.detach(), use_libuv=True,
        )  # fmt: skip

    def join(self) -> TCPStore | None:
        """Node 0's store, with this node as the only one of its rank; None once the node's process leaves.

        Raises Refused where another node has this rank, or where whoever answers is no node 0.
        """
        strangers, why = 0, ""
        while self.exchange({"why": why.encode()}):
            signal.alarm(int(SILENCE))
            try:
                socket.create_connection((self.host, self.port), timeout=TIMEOUT).close()
                store = TCPStore(self.host, self.port, timeout=timedelta(seconds=TIMEOUT), use_libuv=True)
                self.claim(store)
                return store
            except OSError as error:
                why = str(error)
            except DistError:
                strangers += 1
                if strangers == 3:
                    raise Refused(NO_NODE_0.format(f"{self.host}:{self.port}")) from None
        return None

    def claim(self, store: TCPStore) -> None:
        """Become the node of this rank. Raises Refused where there is one, or where it counts other nodes."""
        theirs = store.get("nodes").decode(errors="replace")[:10]
        if theirs != str(self.nodes):
            differ = f"NNODES is {self.nodes} here and {theirs} on node 0"
            why = f"{differ}; start every node with the same command"
            store.set("failed/1", Failure(node_name(self.rank, self.name), why, 2).encoded())
            raise Refused(f"environment: {why}")
        key = f"node/{self.rank}"
        if store.compare_set(key, "", self.name).decode(errors="replace") != self.name:
            what = f"two nodes say that they are node {self.rank}; NODE_RANK must differ"
            raise Refused(f"environment: {what}")
        self.own[key] = self.name

    def attend(self, store: TCPStore) -> bool:
        """Set this node's keys and read everyone's. Returns True once the node's process leaves or is gone.

        Returns False where the connection ends before all nodes have met. Later that is node 0's death: then
        this process ends as well, by which the node's own notices it.
        """
        try:
            while True:
                signal.alarm(int(SILENCE + TIMEOUT))  # a call that does not return must not outlive the run
                if not self.exchange(self.look(store)):
                    self.publish(store)
                    return True
        except GONE:
            self.tell_of_death(store)
            return True
        except DistNetworkError:
            if self.met or self.rank == 0:
                sys.exit(1)
            return False

    def look(self, store: TCPStore) -> dict[str, bytes]:
        """All keys of all nodes, after this node's own are set."""
        self.publish(store)
        seen = {"next": read(store, "next")}
        self.met = self.met or bool(seen["next"])
        for node in range(self.nodes):
            seen |= {f"{what}/{node}": read(store, f"{what}/{node}") for what in OF_A_NODE}
            if self.rank == 0 and node > 0 and seen[f"node/{node}"]:
                self.watch(store, node, seen)
        return seen

    def publish(self, store: TCPStore) -> None:
        """Set this node's keys, and show that it is alive."""
        self.beats += 1
        for key, value in {**self.own, f"alive/{self.rank}": str(self.beats)}.items():
            store.set(key, value)

    def watch(self, store: TCPStore, node: int, seen: dict[str, bytes]) -> None:
        """Note that a node has failed once it shows no sign of life; node 0 does this for all."""
        beat, now = read(store, f"alive/{node}"), time.monotonic()
        ended = seen[f"left/{node}"] or seen[f"failed/{node}"]
        if node not in self.heard or self.heard[node][0] != beat:
            self.heard[node] = beat, now
        elif now - self.heard[node][1] > SILENCE and not ended:
            name, cause = node_name(node, seen[f"node/{node}"]), f"it has been silent for {SILENCE:.0f} s"
            store.set(f"failed/{node}", Failure(name, cause).encoded())

    def tell_of_death(self, store: TCPStore) -> None:
        """The node's process is gone: tell the others, or leave its rank to one that may come again."""
        if not self.met:
            store.compare_set(f"node/{self.rank}", self.name, "")
        elif "left" not in self.own:
            failure = Failure(node_name(self.rank, self.name), "its process is gone")
            store.set(f"failed/{self.rank}", failure.encoded())

    def exchange(self, seen: dict[str, bytes]) -> bool:
        """Take for a moment what the node's process wants set, and answer it; False once it leaves.

        Raises one of GONE where it is gone.
        """
        deadline = time.monotonic() + PAUSE
        while self.channel.poll(max(0.0, deadline - time.monotonic())):
            message = self.channel.recv()
            if message is None:
                return False
            self.own |= message
            if not message:
                self.channel.send(seen)
        return True


def read(store: TCPStore, key: str) -> bytes:
    """A key's value; nothing where it has none, one that is too long, or one that does not come in time."""
    try:
        value = store.get(key) if store.check([key]) else b""
    except DistStoreError:
        return b""
    return value if len(value) <= LONGEST else b""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: on all of this machine's addresses, by IPv6 and IPv4.

    The name in MASTER_ADDR may lead to a loopback address here, and elsewhere not: Debian's /etc/hosts has
    127.0.1.1 for a machine's own name. Only where MASTER_ADDR is plain loopback, no other machine gets in.
    """
    own = host if host in LOOPBACK else ""
    both = not own and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both or ":" in own else socket.AF_INET
    return socket.create_server((own, port), family=family, backlog=128, dualstack_ipv6=both)


def main(descriptor: str, host: str, port: str, rank: str, nodes: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the node's process, which ends this one
    Messenger(Connection(int(descriptor)), host, int(port), int(rank), int(nodes)).run()
    os._exit(0)  # taking torch down can last seconds, and the node waits for this process


if __name__ == "__main__":
    main(*sys.argv[1:])
