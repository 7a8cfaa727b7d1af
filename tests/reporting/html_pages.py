"""What pages are checked for: that they parse, hold all they show, and what a browser makes of them."""

import io
import json
import re
import shutil
import subprocess
from base64 import b64decode
from html.parser import HTMLParser

from PIL import Image

_VOID = {"meta", "img", "br", "hr"}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """A page's text and images, once its tags are found to be balanced and nothing in it comes from elsewhere."""

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text()
        self.open, self.texts, self.images, self.tags, self.bold = [], [], [], [], []
        self.feed(self.source.replace("<wbr>", ""))  # inside words
        self.close()
        assert self.open == []
        assert not re.search(r"<script|javascript:|https?:|url\(|@import|<link|<iframe", self.source)
        assert "default-src 'none'" in self.source
        for image in self.images:
            check_image(image)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        assert not any(name.startswith("on") for name, _ in attributes)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if "strong" in self.open:
            self.bold.append(data)


def check_image(attributes):
    """It is a whole PNG of the size it is said to have, in proportion, with more than one colour and words for it."""
    assert attributes["alt"].strip()
    kind, _, content = attributes["src"].partition(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(b64decode(content, validate=True))) as image:
        image.load()
        assert image.format == "PNG"
        width, height = int(attributes["width"]), int(attributes["height"])
        assert abs(image.width / image.height - width / height) < 0.02
        assert min(image.size) >= 96
        low, high = image.convert("L").getextrema()
        assert high > low


def browse(path, folder, width):
    """What Chromium says on its console, and the pictures' and the page's widths as it laid them out.

    The page is laid out in a frame, for windows are not made narrower than 500 pixels.
    """
    measure = """<script>addEventListener("load", () => parent.postMessage(JSON.stringify({
        images: [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]),
        page: document.documentElement.scrollWidth, window: innerWidth}), "*"))</script>"""
    without_policy = re.sub(r"<meta http-equiv[^>]*>", "", path.read_text())
    (folder / "measured.html").write_text(without_policy.replace("</head>", measure + "</head>"))
    frame = folder / "frame.html"
    frame.write_text(
        "<script>addEventListener('message', event => { document.body.textContent = event.data })</script>"
        f"<body><iframe src=measured.html width={width} height=900></iframe></body>"
    )
    said = _chromium(path, folder).stderr
    dumped = _chromium(frame, folder).stdout
    laid_out = json.loads(re.search(r"<body>(.*?)</body>", dumped, re.DOTALL)[1])
    return [line for line in said.splitlines() if "CONSOLE" in line], laid_out


def _chromium(path, folder):
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={folder}/user",
    ]
    command = [CHROMIUM, *options, "--virtual-time-budget=5000", "--dump-dom", path.resolve().as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
