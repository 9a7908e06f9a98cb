"""One Chromium for many pages, over its debugging pipe: no driver, no library, no port."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NO_CHROMIUM = "no chromium on this machine (apt-get install chromium)"
MUST_DRAW = os.environ.get("CI", "").lower() not in ("", "0", "false")
"""In continuous integration a page that no browser draws is a failure: skipped, nobody would miss it."""
OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--remote-debugging-pipe"),
    *("--disable-dev-shm-usage", "--force-color-profile=srgb"),
)
PATIENCE = 60.0
"""Seconds that one answer may take, on a machine with other work."""


class Browser:
    """A context manager. `complaints` has what the console, the log or a request said since the last `open`.

    Raises FileNotFoundError where there is no Chromium.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.complaints: list[str] = []
        self._number, self._buffer, self._session = 0, b"", ""

    def __enter__(self) -> Browser:
        if CHROMIUM is None:
            raise FileNotFoundError(NO_CHROMIUM)
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        command = [str(CHROMIUM), *OPTIONS, f"--user-data-dir={self.folder}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._in, self._out = ours_in, ours_out
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, page: Path) -> None:
        """Loads a file, and forgets what was complained of before."""
        self.complaints.clear()
        self._ask("Page.navigate", url=page.as_uri())
        deadline = time.monotonic() + PATIENCE
        while self._take(deadline).get("method") != "Page.loadEventFired":
            pass

    def set(self, width: int, scheme: str) -> None:
        """A window of `width` CSS pixels for a reader who prefers `scheme` (light or dark)."""
        self._ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self._ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON carries it. Raises RuntimeError where it throws."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(json.dumps(found["exceptionDetails"])[:2000])
        return found["result"].get("value")

    def picture(self, width: int, height: int, scale: float = 1.0) -> bytes:
        """A PNG of the page from its top."""
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": scale}
        found = self._ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while (answer := self._take(deadline)).get("id") != self._number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _take(self, deadline: float) -> dict[str, Any]:
        """The next message, an answer or an event. Raises TimeoutError."""
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"{CHROMIUM} did not answer")
            if not (part := os.read(self._in, 1 << 20)):
                raise RuntimeError(f"{CHROMIUM} ended with {self._process.wait()}")
            self._buffer += part
        first, self._buffer = self._buffer.split(b"\0", 1)
        message = dict(json.loads(first))
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(f"{method}: {json.dumps(told)[:600]}")
        # The page itself is a file; what it holds in itself are data: addresses.
        if method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(("file:", "data:")):
            self.complaints.append(f"request: {told['request']['url']}")
