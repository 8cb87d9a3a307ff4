"""A headless Chromium that opens one page and tells everything it did, over the DevTools protocol.

The protocol runs over two pipes (`--remote-debugging-pipe`), as messages of JSON that end with a zero byte:
no port, no further package. The browser reaches no network: its proxy is a port where nothing listens.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
OWN_SCHEMES = ("file:", "data:", "blob:")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--proxy-server=127.0.0.1:9",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-pipe",
)


@dataclass
class PageRecord:
    """What a page did.

    Attributes:
        requests: addresses that it asked for, except its own file, data and blob ones.
        problems: console errors and warnings, uncaught exceptions, and entries of the browser's log.
        state: last value of the expression that was waited for.
        screenshot: PNG of the viewport.
    """

    requests: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    state: Any = None
    screenshot: bytes = b""

    def note(self, event: dict[str, Any]) -> None:
        """Take in one event of the protocol."""
        method, content = event.get("method"), event.get("params", {})
        if method == "Network.requestWillBeSent":
            url = content["request"]["url"]
            if not url.startswith(OWN_SCHEMES):
                self.requests.append(url)
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.problems.append(" ".join(str(part.get("value", part)) for part in content["args"]))
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(content["exceptionDetails"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.problems.append(content["entry"]["text"])


class Browser:
    """A running Chromium; a context manager.

    Args:
        program: path of the browser.
        profile: folder of its own.
    """

    def __init__(self, program: str, profile: Path) -> None:
        self._program, self._profile = program, profile
        self._n_sent, self._rest = 0, b""
        self.record = PageRecord()

    def __enter__(self) -> Browser:
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The browser wants its pipes as 3 and 4.
        line = 'exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null'
        self._process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                line,
                self._program,
                *OPTIONS,
                f"--user-data-dir={self._profile}",
                "about:blank",
            ],
            stdin=to_read,
            stdout=to_write,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, *, session: str | None = None, wait_s: float = 120, **arguments: Any) -> Any:
        """Send a command and return its result; events that come meanwhile are noted."""
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": arguments}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + wait_s
        while True:
            answer = self._receive(end)
            if answer.get("id") != self._n_sent:
                self.record.note(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(end - time.monotonic(), 0))[0]:
                raise TimeoutError("the browser did not answer in time")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise RuntimeError(f"the browser ended with code {self._process.poll()}")
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        content: dict[str, Any] = json.loads(message)
        return content


def find_browser() -> str:
    """Return a Chromium, or skip with the reason."""
    for name in NAMES:
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium here: on Debian it is the package chromium")


def open_page(
    page: Path,
    profile: Path,
    *,
    until: str,
    size: tuple[int, int],
    scroll_to: str | None = None,
    wait_s: float = 180,
) -> PageRecord:
    """Open a page, wait until an expression of JavaScript is neither empty nor false, and picture it.

    Args:
        page: file.
        profile: folder for the browser's profile.
        until: expression; "failed" ends the waiting, too.
        size: of the window, in pixels.
        scroll_to: identifier of the element to bring to the top before the picture.
        wait_s: at most.
    """
    with Browser(find_browser(), profile) as browser:
        target = browser.call("Target.createTarget", url="about:blank")
        session = browser.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            browser.call(f"{domain}.enable", session=session)
        window = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        browser.call("Emulation.setDeviceMetricsOverride", session=session, **window)
        browser.call("Page.navigate", session=session, url=page.as_uri())
        end = time.monotonic() + wait_s
        while not browser.record.state and time.monotonic() < end:
            time.sleep(0.2)
            found = browser.call("Runtime.evaluate", session=session, expression=until)
            browser.record.state = found["result"].get("value")
        if scroll_to:
            line = f"document.getElementById({scroll_to!r}).scrollIntoView()"
            browser.call("Runtime.evaluate", session=session, expression=line)
        # Two frames, so that what the page drew last has reached the screen.
        frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        browser.call("Runtime.evaluate", session=session, expression=frames, awaitPromise=True)
        shot = browser.call("Page.captureScreenshot", session=session, format="png")
        browser.record.screenshot = base64.b64decode(shot["data"])
        return browser.record
