"""Headless Chromium by its DevTools protocol: enough of a browser to see what a page does.

The only package that it needs is websockets, which comes with LLaMA-Factory.
"""

import importlib.util
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--remote-debugging-port=0",
)  # fmt: skip
PATIENCE = 60  # seconds


def find_chromium() -> str | None:
    """The browser's program, or None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


# What a browser lacks here, or None.
ABSENT = None if importlib.util.find_spec("websockets") else "package websockets"
ABSENT = ABSENT if find_chromium() else "Chromium (Debian: apt-get install chromium)"


class Browser:
    """A browser with one page. `events` is all that it has told, as (method, parameters)."""

    def __init__(self, profile: Path) -> None:
        from websockets.sync.client import connect

        command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        address = profile / "DevToolsActivePort"
        self._wait(lambda: address.is_file() and len(address.read_text().split()) == 2)
        port, path = address.read_text().split()
        self.socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, open_timeout=PATIENCE)
        self.numbers, self.events, self.session = itertools.count(1), [], None
        self._wait(self._targets)
        attached = self.call("Target.attachToTarget", targetId=self._targets()[0], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(PATIENCE)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        number = next(self.numbers)
        session = {"sessionId": self.session} if self.session else {}
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters, **session}))
        while True:
            message = self._receive()
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(
        self, page: Path, width: int = 1280, height: int = 900, dark: bool = False, more: str = ""
    ) -> None:
        """Load a file in a window of so many CSS pixels; `events` begins anew.

        `more` follows in its address; it begins with ? where the file is open already.
        """
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.resolve().as_uri() + more)
        self._wait(lambda: self.told("Page.loadEventFired"))

    def press(self, key: str, code: int) -> None:
        """A key, on whatever has the focus; `code` is its Windows virtual key code."""
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text
            )

    def choose(self, name: str, value: str, event: str = "change") -> None:
        """Give a control, by its id, another value."""
        self.evaluate(f"{name}.value = {value!r}, {name}.dispatchEvent(new Event({event!r}))")

    def complaints(self) -> list[dict[str, Any]]:
        """What the page has failed at, or warned of."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [told for kind in kinds for told in self.told(kind)]

    def told(self, method: str) -> list[dict[str, Any]]:
        """The parameters of all events of a method so far."""
        self.call("Runtime.evaluate", expression="0")  # what came before its answer has been read then
        return [parameters for name, parameters in self.events if name == method]

    def _targets(self) -> list[str]:
        listed = self.call("Target.getTargets")["targetInfos"]
        return [target["targetId"] for target in listed if target["type"] == "page"]

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self.socket.recv(timeout=PATIENCE))
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def _wait(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "the browser does not answer"
            time.sleep(0.05)
