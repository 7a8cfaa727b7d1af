"""Pages in a headless Chromium, from a static server on loopback; skipped where either is missing."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static server of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def chromium() -> Iterator[Callable[..., Any]]:
    """What opens an address: ``open(url, width)`` gives a page of playwright with its ``problems``, a list.

    Problems are errors of scripts, messages of the console that are errors, and requests that failed.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install 'evae[browser]')")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])

        def opened(url: str, width: int = 1280, height: int = 900) -> Any:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.problems = []
            page.on("pageerror", lambda error: page.problems.append(str(error)))
            page.on("console", lambda line: page.problems.append(line.text) if line.type == "error" else None)
            page.on("requestfailed", lambda request: page.problems.append(request.url))
            page.goto(url)
            return page

        try:
            yield opened
        finally:
            browser.close()
