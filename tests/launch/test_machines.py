"""How several nodes come together: where node 0 listens, who is told what, who may come again."""

import json
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from commands import run_script
from machines_here import free_port

from dice.errors import BadInput
from dice.launch import peers
from dice.recipe.keys import ROOT
from dice.run import lock
from dice.stages import prepare


@pytest.fixture
def environment(monkeypatch):
    """NNODES, NODE_RANK and so on, as given."""

    def put(**values: object) -> None:
        for name in peers.VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return put


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
def test_a_name_that_is_loopback_here_alone(environment, host, reached, refused):
    """Debian gives a machine's own name 127.0.1.1; the others come by another address."""
    if "::1" in reached and not socket.has_dualstack_ipv6():
        pytest.skip("this system has no IPv6")
    environment(NNODES=2)
    with peers._listening(host, free_port()) as server:
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
        peers.join(1, "start")


def test_a_node_that_is_started_again_while_another_is_awaited(environment):
    port = free_port()
    environment(NNODES=3, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    with ThreadPoolExecutor() as pool:
        gathering = pool.submit(peers.gather_peers, "start")
        for _ in range(2):  # node 1 comes and goes
            deadline = time.monotonic() + 10
            while True:
                try:
                    gone = socket.create_connection(("127.0.0.1", port + 1))
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
            gone.sendall(json.dumps({"node": 1, "host": "gone"}).encode() + b"\n")
            time.sleep(0.1)
            gone.close()
        joined = [pool.submit(peers.join, rank, "start") for rank in (1, 2)]
        assert [peer.name.split()[1] for peer in gathering.result(20)] == ["1", "2"]
        for node in joined:
            assert node.result(20).name.startswith("node 0 (")


def started(port: int, rank: int, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {"NNODES": "2", "NODE_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return run_script(
        sys.executable,
        "-m",
        "dice",
        "start",
        "tiny",
        *arguments,
        timeout=60,
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
        (["seed=x"], {}, "seed: Value 'x'"),
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
