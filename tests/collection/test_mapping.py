"""evae map: what the page holds, and what it does in a browser."""

import json
import re
from base64 import b64decode, b64encode
from hashlib import sha384

import numpy as np
import pandas as pd
import pytest

from evae import encode, map
from evae.cli import main
from evae.errors import DataError
from tests.browser import chromium, served
from tests.collection.conftest import pictures, written


def content(path):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found[1])


@pytest.fixture(scope="module")
def page(run, tmp_path_factory, _shared_cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(_shared_cache))
        return map(run, tmp_path_factory.mktemp("map") / "map.html")


def test_the_page_holds_all_images(page, run, tmp_path):
    data, codes = content(page), pd.read_parquet(encode(run, tmp_path / "codes.parquet"))
    assert data["names"] == [str(i) for i in range(64)]
    columns = {column["name"]: column for column in data["columns"]}
    assert list(columns) == ["label", "split", "error", "error percentile", "rate"]
    assert columns["label"]["names"] == ["0", "1"]
    assert np.frombuffer(b64decode(columns["label"]["codes"]), "<u2").tolist() == codes["label"].tolist()
    np.testing.assert_allclose(np.frombuffer(b64decode(columns["error"]["values"]), "<f4"), codes["error"], rtol=1e-5)
    near = np.frombuffer(b64decode(data["near"]), "<u4").reshape(64, 12)
    z = np.stack(codes["vector"])
    distances = np.linalg.norm(z[:, None] - z[None], axis=-1) + 1e9 * np.eye(64)
    assert (near[:, 0] == distances.argmin(1)).all()
    assert len(data["images"]["sheets"]) == len(data["rebuilt"]["sheets"]) == 1


def test_the_page_is_whole_and_runs_its_own_script_alone(page):
    text = page.read_text()
    assert "Neighbourhood purity" in text
    assert "Trustworthiness" in text
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = b64encode(sha384(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha384-{digest}'" in text
    assert not re.search(r"https?:|@import|<link|<iframe| on\w+=", text)


def test_other_images_columns_and_a_limit(run, tmp_path, capsys):
    names = ["<b>.png", *(f"x{i}.jpg" for i in range(9))]
    data = written(tmp_path / "data", pictures(10), names)
    (tmp_path / "t.csv").write_text("file,p_value\nx0.jpg,0.25\n")
    path = tmp_path / "m.html"
    arguments = ["map", str(run), "--data", str(data), "--out", str(path), "--columns", str(tmp_path / "t.csv")]
    assert main(arguments) == 0
    found = content(path)
    assert found["names"] == names
    assert found["columns"][-1]["name"] == "p_value"
    assert "<b>" not in path.read_text()
    assert main([*arguments[:-2], "--limit", "4"]) == 0
    assert len(content(path)["names"]) == 4
    assert "the map shows 4 of 10 images" in capsys.readouterr().err


def test_too_few_images(run, tmp_path, capsys):
    data = written(tmp_path / "data", pictures(2), ["a.png", "b.png"])
    with pytest.raises(DataError, match="a map needs at least 3 images, and there are 2"):
        map(run, tmp_path / "m.html", data=str(data))
    assert main(["map", str(run), "--data", str(data / "a.png"), "--out", str(tmp_path / "m.html")]) == 2
    assert "and there is one" in capsys.readouterr().err


@pytest.mark.slow
def test_umap(run, tmp_path):
    pytest.importorskip("umap", reason="needs umap-learn (pip install 'evae[umap]')")
    first, second = (content(map(run, tmp_path / "m.html", method="umap", seed=1))["points"] for _ in range(2))
    assert first == second
    assert np.isfinite(np.frombuffer(b64decode(first), "<f4")).all()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(page, width):
    with served(page.parent) as url, chromium() as opened:
        shown = opened(f"{url}/map.html", width)
        shown.wait_for_timeout(300)
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        before = shown.locator("#map").screenshot()
        assert shown.locator("#legend button").count() == 2
        shown.locator("#map").focus()
        shown.keyboard.press("Enter")
        assert shown.locator("#details").is_visible()
        assert shown.locator("#near button").count() == 12
        name = shown.inner_text("#name")
        shown.locator("#near button").first.click()
        assert shown.inner_text("#name") != name
        shown.keyboard.press("Escape")
        assert not shown.locator("#details").is_visible()
        shown.select_option("#colour", label="error")
        shown.wait_for_timeout(100)
        assert shown.locator("#legend canvas").count() == 1
        assert shown.locator("#map").screenshot() != before
        shown.fill("#search", "17")
        assert shown.inner_text("#found") == "1 found"
        shown.press("#search", "Enter")
        assert shown.inner_text("#name") == "image 17"
        box = shown.locator("#map").bounding_box()
        shown.mouse.move(box["x"] + 100, box["y"] + 100)
        shown.mouse.wheel(0, -300)
        shown.wait_for_timeout(200)
        assert shown.problems == []
