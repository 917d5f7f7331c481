"""How several nodes come together, what they tell each other, and what strangers can do to them."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands import run_script
from machines_here import free_port

from dice.errors import BadInput, StageFailed
from dice.launch import devices, failures, machines, messenger
from dice.launch.failures import Failure
from dice.launch.machines import Meeting
from dice.recipe.paths import ROOT
from dice.run import lock
from dice.stages import prepare


@pytest.fixture
def environment(monkeypatch):
    """NNODES, NODE_RANK and so on, as given."""

    def put(**values: object) -> None:
        for name in devices.NODE_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


@pytest.fixture
def node(environment) -> Iterator[Callable[..., Meeting]]:
    """Nodes of one run, each in this process with a messenger of its own: node(rank, count)."""
    port, opened = free_port(), []
    environment(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)

    def open_node(rank: int, count: int = 2) -> Meeting:
        opened.append(Meeting("score", 1, rank, count))
        return opened[-1]

    yield open_node
    for one in opened:
        one.close()


def met(*nodes: Meeting) -> tuple[Meeting, ...]:
    with ThreadPoolExecutor() as pool:
        list(pool.map(Meeting.meet, nodes))
    return nodes


def until(happened: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("host", "reached", "refused"),
    [
        ("127.0.1.1", ["127.0.0.2", "::1"], []),
        ("some-name", ["127.0.0.2", "::1"], []),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.2"]),
        ("localhost", ["localhost"], ["127.0.0.2"]),
        ("::1", ["::1"], ["127.0.0.2"]),
    ],
)
def test_a_name_that_is_loopback_here_alone(host, reached, refused):
    """Debian gives a machine's own name 127.0.1.1; the others come by another address."""
    if "::1" in reached and not socket.has_dualstack_ipv6():
        pytest.skip("this system has no IPv6")
    with messenger.listen(host, free_port()) as server:
        port = server.getsockname()[1]
        for place in reached:
            socket.create_connection((place, port)).close()
        for place in refused:
            with pytest.raises(OSError):
                socket.create_connection((place, port))


@pytest.mark.parametrize("name", ["a..b", "n" * 70])
def test_an_address_that_is_no_name(environment, name):
    environment(NNODES=2, NODE_RANK=1, MASTER_ADDR=name, MASTER_PORT=29500)
    with pytest.raises(BadInput, match="environment: MASTER_ADDR is .*, which is no machine's name"):
        Meeting("start", 0, 1, 2)


@pytest.mark.slow
def test_a_node_that_is_started_again_while_another_is_awaited(node):
    first, gone = node(0, 3), node(1, 3)
    with ThreadPoolExecutor() as pool:
        gathering = pool.submit(first.meet)
        until(lambda: first.seen.get("node/1"))
        before = first.seen["node/1"]
        gone.channel.close()  # as if its process were killed
        until(lambda: not first.seen.get("node/1"))
        met(node(1, 3), node(2, 3))
        gathering.result(60)
    assert first.seen["node/1"] not in (b"", before)


@pytest.mark.slow
def test_a_node_that_is_started_twice(node):
    """The second one is refused in one line; the run goes on."""
    first, second = met(node(0), node(1))
    with pytest.raises(BadInput, match="two nodes say that they are node 1; NODE_RANK must differ"):
        node(1).meet()
    with pytest.raises(BadInput, match=r"port .* \(MASTER_PORT [+] 1\) of 127.0.0.1 can't be listened"):
        node(0).meet()
    first.watch()
    second.watch()


@pytest.mark.slow
def test_nodes_that_count_differently(node):
    with pytest.raises(BadInput, match="NNODES is 3 here and 2 on node 0; start every node with"):
        met(first := node(0), node(1, 3))
    until(first.failures)
    with pytest.raises(BadInput, match=r"node 1 \(.*: NNODES is 3 here and 2 on node 0"):
        first.watch()


@pytest.mark.slow
def test_three_nodes_do_the_parts_that_node_0_names(node):
    """Then one of them fails, and another one is killed: node 0 hears of both."""
    first, second, third = met(*(node(rank, 3) for rank in range(3)))
    did = []

    def follow(one: Meeting) -> None:
        one.agree(lambda: {"recipe": "a"})
        one.follow(lambda: {"workers": lambda: did.append(one.rank)})

    with ThreadPoolExecutor() as pool:
        following = [pool.submit(follow, one) for one in (second, third)]
        first.agree(lambda: {"recipe": "a"})
        first.announce("workers")
        first.gather()
        assert sorted(did) == [1, 2]
        first.announce("another")
        for one in following:
            with pytest.raises(BadInput, match="asks for part 'another' of score; this checkout has workers"):
                one.result(20)
    second._put("failed", Failure("node 1 (b)", "first line\nand \x1b[2J").encoded())
    begun = time.monotonic()
    third.channel.close()
    until(lambda: first._look() or len(first.failures()) == 2)
    assert time.monotonic() - begun < 4
    with pytest.raises(StageFailed) as caught:
        first.watch()
    lines = str(caught.value).splitlines()
    assert lines[:2] == ["node 1 (b): first line", r"and \x1b[2J"]
    assert lines[2].startswith("node 2 (") and lines[2].endswith("): its process is gone")


def test_nodes_that_differ(node):
    first = Meeting("score", 1)
    first.count, first.others = 2, [1]
    first.seen = {"node/1": b"0 machine", "facts/1": b'{"recipe": "b\\u001b[2J"}'}
    with pytest.raises(BadInput) as caught:
        first.agree(lambda: {"recipe": "a"})
    told = r"node 1 (machine) and node 0 differ in their recipe: b\x1b[2J and a; start every node with"
    assert str(caught.value).startswith(told)


def test_facts_that_a_stranger_wrote_are_waited_past(monkeypatch):
    """`{"node": "x"}` has the shape of facts; those of a node have our names, and come again and again."""
    first = Meeting("score", 1)
    first.count, first.others = 2, [1]
    first.seen = {"node/1": b"0 machine", "facts/1": b'{"node": "x"}'}
    monkeypatch.setattr(first, "_pause", lambda: first.seen.update({"facts/1": b'{"recipe": "a"}'}))
    first.agree(lambda: {"recipe": "a"})
    monkeypatch.setattr(machines, "PATIENCE", -1)
    with pytest.raises(StageFailed, match="node 1 .machine.: it has not told how it was started"):
        first.agree(lambda: {"recipe": "a", "commit": "b"})


OTHER_SHAPES = (
    b"", b"[]", b"[" * 30_000, b'{"node": true}', b"\x1b[2J", b"\xff", b'{"number": 1}', b"1e400",
    b'{"recipe": 1}', b'{"node": "x", "cause": "y", "status": 3}',
)  # fmt: skip


@pytest.mark.parametrize("value", OTHER_SHAPES)
def test_a_value_of_another_shape_is_none(value):
    one = Meeting("score", 1)
    one.others = [1]
    one.seen = dict.fromkeys(("next", "facts/1", "failed/1", "done/1"), value)
    for key, kind in (("next", machines.Next), ("facts/1", dict[str, str]), ("done/1", int)):
        assert one._read(key, kind) is None
    assert one.failures() == []


def test_a_cause_of_any_length_fits_a_value():
    for char in ("a", "é", "\U0001f600", "\x1b", '"'):
        assert len(Failure("node 1", char * 100_000).encoded().encode()) <= failures.LONGEST


@pytest.mark.slow
@pytest.mark.parametrize("says", [None, b"HTTP/1.1 400 Bad Request\r\n\r\n\x1b[2J", b"\xff" * 100_000])
def test_whoever_has_the_port_before_node_0(node, monkeypatch, says):
    """The other nodes are refused in one line. The first stranger says nothing at all."""
    monkeypatch.setattr(machines, "SILENCE", 5.0)
    port, kept = int(os.environ["MASTER_PORT"]) + 1, []

    def serve(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(server.accept()[0])
                if says:
                    kept[-1].sendall(says)
                    kept[-1].close()

    with socket.create_server(("127.0.0.1", port)) as server:
        threading.Thread(target=serve, args=[server], daemon=True).start()
        with pytest.raises(BadInput, match="environment: whoever answers at .* is not node 0 of this run"):
            node(1).meet()
        monkeypatch.setattr(machines, "SILENCE", 60.0)  # the messenger may take seconds to start
        with pytest.raises(BadInput, match=os.strerror(errno.EADDRINUSE)):
            node(0).meet()
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


def started(port: int, rank: int, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return run_script(
        sys.executable,
        "-m",
        "dice",
        "start",
        "tiny",
        *arguments,
        timeout=240,
        PYTHONPATH=str(ROOT),
        **own,
        **env,
    )


def test_nodes_without_a_file_system_in_common(fake_run):
    """Node 1 looks where node 0 has written."""
    prepare._require_shared(fake_run)
    (fake_run.path / "recipe.yaml").unlink()
    with pytest.raises(BadInput, match="node 0 has made it, but it is not here; all nodes need one file"):
        prepare._require_shared(fake_run)


@pytest.mark.slow
@pytest.mark.parametrize("failing", [0, 1])
def test_what_a_node_refuses_before_it_does_anything_ends_the_other(fake_settings, tmp_path, failing):
    """An override of one node, and the environment of one node."""
    for arguments, env, cause in (
        (["seed=x"], {}, "seed is 'x'; it must be a whole number"),
        ([], {"NPROC_PER_NODE": "0"}, "NPROC_PER_NODE is '0'"),
    ):
        port, begun = free_port(), time.monotonic()
        with ThreadPoolExecutor() as pool:
            bad = pool.submit(started, port, failing, *fake_settings, *arguments, **env)
            good = pool.submit(started, port, 1 - failing, *fake_settings)
        assert time.monotonic() - begun < 30
        assert bad.result().returncode == good.result().returncode == 2, good.result().stderr
        assert cause in bad.result().stderr
        assert f"error: node {failing} (" in good.result().stderr and cause in good.result().stderr
        assert len(good.result().stderr.splitlines()) == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("variables", "leads"),
    [
        ({"NODE_RANK": 1}, True),
        ({"NNODES": 1, "NODE_RANK": 3}, True),
        ({"NNODES": 2, "NODE_RANK": "00"}, True),
        ({"NNODES": 2, "NODE_RANK": 1}, False),
    ],
)
def test_who_holds_a_run(environment, monkeypatch, fake_run, fake_settings, variables, leads):
    """Clusters export NODE_RANK to jobs of one machine as well."""
    environment(**variables)
    with (fake_run.path / ".lock").open("a+") as file:
        monkeypatch.setenv(lock.INHERITED, str(file.fileno()))
        prepare.hold(fake_run, "tiny", fake_settings)
        assert bool(lock.holder(fake_run.path)) == leads
