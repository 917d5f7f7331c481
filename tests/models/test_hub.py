"""What the Hub says of a model, asked of a small server that answers as the Hub does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from commands import run_python

pytestmark = pytest.mark.slow
INFO = {
    "id": "some/model",
    "siblings": [
        {"rfilename": "model-00001-of-00002.safetensors", "size": 600},
        {"rfilename": "model-00002-of-00002.safetensors", "size": 400},
        {"rfilename": "pytorch_model.bin", "size": 1000},
        {"rfilename": "original/consolidated.safetensors", "size": 1000},
    ],
    "safetensors": {"parameters": {"BF16": 500}, "total": 500},
}
ASK = """
import sys
from dice.models import hub

for name in sys.argv[1:]:
    try:
        print(hub.look_up(name))
    except (hub.NoSuchModel, hub.OutOfReach) as error:
        print(type(error).__name__, error)
"""


class Hub(BaseHTTPRequestHandler):
    """some/model is there, some/gated may not be had, all others do not exist."""

    def do_GET(self):
        status, code = 404, "RepoNotFound"
        if self.path.startswith("/api/models/some/model"):
            status, code = 200, ""
        elif "gated" in self.path:
            status, code = 403, "GatedRepo"
        body = json.dumps(INFO if status == 200 else {"error": code}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def asked(endpoint, *names):
    """The lines that asking for models at an endpoint prints."""
    result = run_python(ASK, *names, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0", NO_PROXY="127.0.0.1")
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def test_models_that_are_there_and_that_are_not(endpoint):
    there, gated, gone = asked(endpoint, "some/model", "some/gated", "no/model")
    assert (
        there == "Remote(parameters=500, size=1000, is_pickled=False)"
    )  # one format counts, and no folder below
    assert gated.startswith("NoSuchModel it is gated: accept its conditions on the Hub")
    assert gone.startswith("NoSuchModel the Hub has no such model, or it is private")


def test_a_hub_that_is_not_there():
    """One refusal is enough: the second name is not asked for."""
    first, second = asked("http://127.0.0.1:9", "some/model", "some/other")
    assert first == second and first.startswith("OutOfReach ")


@pytest.mark.slow
def test_a_hub_that_does_not_answer():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the call and says nothing
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        script = ASK.replace("from dice.models import hub", "from dice.models import hub; hub.TIMEOUT = 0.2")
        result = run_python(script, "a/b", HF_ENDPOINT=address, HF_HUB_OFFLINE="0", NO_PROXY="127.0.0.1")
    assert result.stdout.startswith("OutOfReach "), result.stderr
