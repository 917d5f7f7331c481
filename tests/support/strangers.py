"""Programs that talk to the port on which the nodes of a run meet, though nobody asked them to.

python tests/support/strangers.py PORT: each of them in turn, again and again, its name on stdout afterwards.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial

TALK = {
    "nothing": b"",
    "an empty list": b"[]\n",
    "60,000 brackets": b"[" * 60_000 + b"\n",
    "a node that is true": b'{"node": true}\n',
    "HTTP": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2,
    "random bytes": os.urandom(100_000),
    "terminal escapes": b"\x1b[2J\x1b]0;pwned\x07\n",
    "half a store's hello": b"\x00\xce\xf7",
}
OURS = ("next", "facts/1", "facts/2", "failed/0", "failed/1", "done/1")
ODD = ("\x1b[2J\x07", "{", "[" * 20_000, '{"part": 1}', '{"node": "x"}', "x" * (1 << 20), "")
HELD = "a connection that is held open"
CLIENT = "a client of the store with odd keys and values"
KINDS = (*TALK, HELD, CLIENT)


def talk(port: int, text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as stranger:
        stranger.sendall(text)
        stranger.settimeout(0.2)
        with contextlib.suppress(OSError):
            stranger.recv(100)


def set_odd_keys(port: int) -> None:
    """As a program that knows torch would: keys of its own, and the run's own with what they never hold."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, timeout=timedelta(seconds=3))
    for value in ODD:
        for key in (*OURS, "odd \x1b[2J", "x" * 1000):
            store.set(key, value)
        time.sleep(0.05)
    for key in OURS:
        store.delete_key(key)


def visits(port: int) -> Iterator[str]:
    """Every kind again and again; its name once it has been there."""
    held: list[socket.socket] = []
    kinds: dict[str, Callable[[], object]] = {name: partial(talk, port, text) for name, text in TALK.items()}
    kinds[HELD] = lambda: held.append(socket.create_connection(("127.0.0.1", port), timeout=5))
    kinds[CLIENT] = partial(set_odd_keys, port)
    while True:
        for name, visit in kinds.items():
            with contextlib.suppress(OSError, RuntimeError):  # nobody is listening at this moment
                visit()
                yield name
        del held[20:]
        time.sleep(0.05)


if __name__ == "__main__":
    for name in visits(int(sys.argv[1])):
        print(name, flush=True)
