"""A real headless Chromium by its DevTools protocol over a pipe, with the standard library alone."""

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (make chromium)")


class Browser:
    """A browser with one page; use it as a context. The protocol's messages end in a null byte, on descriptors 3 and 4."""

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        reads, self._writes = os.pipe()
        self._reads, writes = os.pipe()

        def as_three_and_four():
            # By way of higher numbers, for either may be 3 or 4 itself.
            high = [os.dup(reads), os.dup(writes)]
            keep = [os.dup2(descriptor, 10 + place) for place, descriptor in enumerate(high)]
            for place, descriptor in enumerate(keep):
                os.dup2(descriptor, 3 + place, inheritable=True)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        self._process = subprocess.Popen(
            [PROGRAM, *options, "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}", "about:blank"],
            preexec_fn=as_three_and_four,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(reads)
        os.close(writes)
        self._numbers, self._buffer, self.events = itertools.count(1), b"", []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._writes)
        os.close(self._reads)
        self._folder.cleanup()

    def call(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        content = json.dumps(message).encode() + b"\0"
        while content:
            content = content[os.write(self._writes, content) :]
        while (answer := self._receive()).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self, seconds=120):
        until = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], max(0, until - time.monotonic()))
            assert ready, "Chromium does not answer"
            block = os.read(self._reads, 1 << 20)
            assert block, "Chromium has ended"
            self._buffer += block
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path, width=1280, height=900, draws=True):
        """Show a file at a width, and wait until it has loaded and, unless it is one that cannot, drawn."""
        self.events.clear()
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 640}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")
        if draws:
            self.wait_for(
                "[...document.querySelectorAll('[data-figure]')].filter(place => !place.closest('details:not([open])'))"
                ".every(place => place.querySelector('.main-svg'))"
            )
        # What plotly does after its first drawing, such as making room for labels, takes a few frames.
        self.evaluate("new Promise(done => setTimeout(done, 300))")

    def evaluate(self, script):
        """The value of an expression; a promise is waited for."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait_for(self, condition, seconds=60):
        until = time.monotonic() + seconds
        while not self.evaluate(condition):
            assert time.monotonic() < until, f"waited in vain for {condition}"
            time.sleep(0.05)

    def problems(self):
        """What was written to the console as a warning or an error, exceptions, and addresses other than files."""
        self.evaluate("0")
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            if event.get("method") == "Runtime.exceptionThrown":
                found.append(json.dumps(parameters["exceptionDetails"])[:500])
            elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] in ("warning", "error"):
                found.append(parameters["entry"]["text"])
            elif event.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("warning", "error"):
                found.append(json.dumps(parameters["args"])[:500])
            elif event.get("method") == "Network.requestWillBeSent":
                address = parameters["request"]["url"]
                if not address.startswith(("file:", "data:", "blob:")):
                    found.append(f"asks for {address}")
        return found

    def overflow(self):
        """By how many pixels the page is wider than the window."""
        return self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def screenshot(self, path):
        """The whole page as PNG."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        Path(path).write_bytes(base64.b64decode(image["data"]))
