"""A stand-in for W&B's server, as far as a run without tables needs one: it knows the history of runs."""

import contextlib
import gzip
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PROJECT = {"id": "p", "name": "dice", "entity": {"id": "e", "name": "somebody"}}
History = dict[str, list[dict[str, Any]]]  # the rows that were logged, by the id of the run


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, History]]:
    """The address of a server, and what it is told."""
    history: History = defaultdict(list)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                content = gzip.decompress(content)
            asked = json.loads(content or "{}")
            if "file_stream" in self.path:
                for name, part in (asked.get("files") or {}).items():
                    if name == "wandb-history.jsonl":  # rows from an offset on
                        history[self.path.split("/")[-2]][part["offset"] :] = map(json.loads, part["content"])
                self.answer({"limits": {}})
            else:
                name = re.search(r"(?:query|mutation)\s+(\w+)", asked.get("query", "query nothing"))[1]
                self.answer({"data": _answer(name, asked.get("variables") or {}, history)})

        def answer(self, told: dict[str, Any]) -> None:
            content = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", history
    server.shutdown()


def _answer(query: str, given: dict[str, Any], history: History) -> dict[str, Any]:
    run = {"id": "r", "name": given.get("name"), "displayName": "tiny", "config": "{}", "project": PROJECT}
    if query == "RunResumeStatus":
        rows = history.get(given["name"], [])
        tail = json.dumps([json.dumps(row) for row in rows[-1:]])
        known = {
            "summaryMetrics": "{}", "logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "tags": [],
            "historyLineCount": len(rows), "historyTail": tail, "wandbConfig": '{"t": 1}', "stopped": False,
            "createdAt": "2026-01-01T00:00:00",
        }  # fmt: skip
        return {"model": PROJECT | {"bucket": run | known if rows else None}}
    if query == "UpsertBucket":
        return {"upsertBucket": {"bucket": run | {"historyLineCount": 0}, "inserted": True}}
    if query == "CreateRunFiles":
        return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": []}}
    return {}
