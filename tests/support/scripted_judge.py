"""A judge that says what a test wants: an HTTP server that speaks OpenAI's chat completions."""

import contextlib
import json
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from dice.tools.benchmarks import evaluation

Reply = str | tuple[int, str | bytes] | tuple[int, str | bytes, dict[str, str]] | dict[str, Any]


class Judge:
    """`say(request, number)` makes a text, a (status, body), or a whole choice; requests are remembered.

    A (status, body) may have headers as its third item.
    """

    def __init__(self, say: Callable[[dict[str, Any], int], Reply]) -> None:
        self.say, self.requests, self.headers = say, [], []
        self.lock = threading.Lock()
        self.url = ""

    def answer(self, request: dict[str, Any], headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        with self.lock:
            number = len(self.requests)
            self.requests.append(request)
            self.headers.append(headers)
        said = self.say(request, number)
        if isinstance(said, tuple):
            status, body, *more = said
            return status, body.encode() if isinstance(body, str) else body, *(more or [{}])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        choice = said if isinstance(said, dict) else choice
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"]}
        return 200, json.dumps({**body, "choices": [choice], "usage": usage}).encode(), {}


@contextlib.contextmanager
def serve(say: Callable[[dict[str, Any], int], Reply]) -> Iterator[Judge]:
    """A judge on a free port for as long as the block lasts."""
    judge = Judge(say)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body, headers = judge.answer(request, dict(self.headers))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def dripping(seconds: float) -> Iterator[str]:
    """The address of a judge that sends a blank every 20 ms, and no answer."""

    class Drip(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(round(seconds / 0.02)):
                    self.wfile.write(b"1\r\n \r\n")
                    time.sleep(0.02)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Drip)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def last(request: dict[str, Any]) -> str:
    """What the judge was asked, the user's message."""
    return request["messages"][-1]["content"]


def evaluate(run, name, given, judge, monkeypatch, key="sk-secret"):
    """The results of a benchmark with a server, or an address, as the judge."""
    monkeypatch.setenv("OPENAI_BASE_URL", judge.url if hasattr(judge, "url") else judge)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    return evaluation.evaluate(run, name, evaluation.parse(given))
