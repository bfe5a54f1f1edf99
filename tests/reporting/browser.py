"""Chromium without a window, driven over a pipe: real mouse events, screenshots, and all that it complains of."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60
"""Seconds that anything may take."""


def find() -> str | None:
    """The program, or None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser, by the DevTools protocol.

    Attributes:
        complaints: what the console, the log and uncaught exceptions have said. requests: the addresses asked for.
    """

    def __init__(self, process: subprocess.Popen[bytes], reader: int, writer: int):
        self._process, self._reader, self._writer = process, reader, writer
        self._number, self._rest, self._session = 0, b"", ""
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def open(self, path: Path, width: int = 1200, height: int = 900) -> None:
        """Open a file, and wait until its script has said that it is ready."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait_for("document.documentElement?.dataset.ready")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something, and take note of what it says meanwhile."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        for answer in self._messages():
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)
        raise AssertionError("the browser has ended")

    def _messages(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            while b"\0" in self._rest:
                message, _, self._rest = self._rest.partition(b"\0")
                yield json.loads(message)
            if select.select([self._reader], [], [], 1)[0]:
                more = os.read(self._reader, 1 << 20)
                if not more:
                    return
                self._rest += more
        raise AssertionError(f"the browser has not answered for {PATIENCE} s")

    def _note(self, event: dict[str, Any]) -> None:
        method, said = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(said["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.complaints.append(json.dumps(said["args"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript gives."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression is true; its value."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if value := self.value(expression):
                return value
            time.sleep(0.05)
        raise AssertionError(f"not so within {PATIENCE} s: {expression}; {self.complaints}")

    def scroll_to(self, selector: str) -> None:
        self.value(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'start'}})")

    def middle(self, selector: str, number: int = 0) -> tuple[float, float]:
        """Where the middle of an element is in the window: the one of that number among those that match."""
        box = f"document.querySelectorAll({json.dumps(selector)})[{number}].getBoundingClientRect()"
        x, y = self.value(f"(() => {{ const b = {box}; return [b.x + b.width / 2, b.y + b.height / 2] }})()")
        return x, y

    def hover(self, x: float, y: float) -> None:
        """Move the mouse to a place in the window, by way of one beside it."""
        for beside in (3, 0):
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + beside, y=y)

    def click(self, x: float, y: float) -> None:
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """A browser that ends with the block."""
    there, back = os.pipe(), os.pipe()
    arguments = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *arguments, f"--user-data-dir={profile}", "about:blank"]
        script = f'exec "$@" 3<&{there[0]} 4>&{back[1]}'
        process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(there[0], back[1]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(there[0])
        os.close(back[1])
        try:
            yield Browser(process, back[0], there[1])
        finally:
            process.kill()
            process.wait()
            os.close(there[1])
            os.close(back[0])
