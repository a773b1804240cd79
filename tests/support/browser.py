"""A real browser without a window: opens a page, presses keys, reads what the page then shows.

It talks to Chromium over two pipes (`--remote-debugging-pipe`), so nothing but Chromium is needed.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0
"""Seconds that one answer may take on a busy machine."""
KEYS = {
    "ArrowRight": 39,
    "ArrowLeft": 37,
    "ArrowUp": 38,
    "ArrowDown": 40,
    "Enter": 13,
    "Escape": 27,
    "Home": 36,
    "End": 35,
    "Tab": 9,
}


def program() -> str:
    """Return the browser's program; a test that needs it fails without it."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    raise RuntimeError(f"no browser: none of {', '.join(NAMES)}; apt-get install -y chromium")


class Browser:
    """Chromium with one page; used in `with`."""

    def __enter__(self) -> Browser:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._send = os.pipe()
        self._receive, to_write = os.pipe()
        arguments = [
            program(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--force-color-profile=srgb",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._folder.name}",
            "about:blank",
        ]
        # The browser reads from descriptor 3 and writes to descriptor 4.
        plumbed = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "bash", *arguments]
        self._process = subprocess.Popen(
            plumbed, pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._number, self._rest = 0, b""
        self.events: deque[dict[str, Any]] = deque()
        (target,) = (
            t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"
        )
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
        os.close(self._send)
        os.close(self._receive)
        self._folder.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session := getattr(self, "_session", None):
            message["sessionId"] = session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") != self._number:
                self.events.append(answer)
                continue
            if "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._receive, 1 << 16)
            if not data:
                raise RuntimeError("the browser has ended")
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)

    def open(self, page: Path, *, width: int = 1280, height: int = 900, scheme: str = "light"):
        """Open a file in a window of a size and a colour scheme; return seconds until it is ready.

        The page says so by `data-ready` on its root.
        """
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        start = time.perf_counter()
        self.call("Page.navigate", url=(address := page.resolve().as_uri()))
        ready = "document.documentElement?.dataset.ready === 'true'"
        self.wait(f"location.href === {address!r} && {ready}")
        # Two frames later everything is painted.
        self.run("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        return time.perf_counter() - start

    def wait(self, condition: str) -> None:
        """Wait until JavaScript is true in the page."""
        start = time.perf_counter()
        while not self.run(condition):
            if time.perf_counter() - start > PATIENCE:
                raise RuntimeError(f"never true: {condition}; {self.complaints()}")
            time.sleep(0.01)

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, and return its value."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, or type a character."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS.get(key, 0)}
        typed = {} if key in KEYS else {"text": key}
        typed |= {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **named, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)
        self._settle()

    def _settle(self) -> None:
        """Wait until the page has heard what follows from a key or a click, such as a toggle."""
        self.run("new Promise(r => setTimeout(r, 50))")

    def write(self, text: str) -> None:
        """Type a text into what has the focus, and wait until the page has taken it in."""
        for character in text:
            self.press(character)
        self.run("new Promise(r => setTimeout(r, 150))")

    def click(self, selector: str, *, at: tuple[float, float] = (0.5, 0.5)) -> None:
        """Click into an element, at a share of its width and height."""
        box = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();"
            f" return [b.x, b.y, b.width, b.height] }})(document.querySelector({selector!r}))"
        )
        place = {"x": box[0] + at[0] * box[2], "y": box[1] + at[1] * box[3]}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
        self._settle()

    def complaints(self) -> list[str]:
        """Return errors of the page, and what it asked the network for."""
        self.run("1")
        lines = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown":
                lines.append(f"error: {what['exceptionDetails']}")
            elif method == "Log.entryAdded" and what["entry"]["level"] == "error":
                lines.append(f"error: {what['entry']['text']}")
            elif method == "Page.javascriptDialogOpening":
                lines.append(f"dialog: {what['message']}")
            elif method == "Network.requestWillBeSent":
                url = what["request"]["url"]
                if not url.startswith("file:") or what["type"] != "Document":
                    lines.append(f"request: {url}")
        return lines

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Save what the window shows, or the whole page, as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
