"""The exported page in a browser: it loads, moves, samples, interpolates, and reconstructs images as torch does."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from evae import BoundedVAE, GaussianVAE, HypersphericalVAE, export, fit_prior, load_images, load_model
from tests.browser import chromium, served
from tests.exporting.web import needs_extra, onnxruntime_web
from tests.small import trained

pytestmark = [pytest.mark.slow, needs_extra]
WAIT = 120_000  # milliseconds


def photograph(size, mode, seed=0):
    """A smooth picture, that resizing and JPEG change little, with some noise."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(size)
    waves = [np.sin(6 * (a * x + b * y) + c) for a, b, c in rng.uniform(-1, 1, (len(mode), 3)) * 3]
    pixels = np.stack(waves, -1) * 100 + 127 + rng.uniform(-20, 20, (height, width, len(mode)))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).squeeze(), mode)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def runtime(root):
    (root / "npm").mkdir()
    return onnxruntime_web(root / "npm")


@pytest.fixture(scope="module")
def runs(root, blobs, _shared_cache):
    """Runs on grey, colour and transparent images, and on a sphere."""
    colour, alpha = root / "colour", root / "alpha"
    for folder, mode in ((colour, "RGB"), (alpha, "RGBA")):
        folder.mkdir()
        for i in range(24):
            photograph((30, 24), mode, i).save(folder / f"{i:02d}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(_shared_cache))
        grey = trained(GaussianVAE, blobs, root / "runs" / "grey")
        fit_prior(grey, components=2)
        sphere = trained(HypersphericalVAE, blobs, root / "runs" / "sphere")
        return {
            "grey": grey,
            "colour": trained(BoundedVAE, str(colour), root / "runs" / "colour"),
            "alpha": trained(GaussianVAE, str(alpha), root / "runs" / "alpha", channels="rgba"),
            "sphere": sphere,
        }


@pytest.fixture(scope="module")
def site(runs, runtime, root, _shared_cache):
    """The address of the exported pages, by the name of their run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVAE_CACHE", str(_shared_cache))
        for name, run in runs.items():
            export(run, root / "site" / name, page=True, runtime=runtime)
    with served(root / "site") as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def ready(browser, site):
    pages = []

    def opened(name, width=1280):
        page = browser(f"{site}/{name}/index.html", width)
        pages.append(page)
        page.wait_for_selector("body[data-state=ready]", timeout=WAIT)
        return page

    yield opened
    for page in pages:
        page.close()


def shown(page, selector):
    """The pixels (S, S, 3) of a canvas."""
    script = "c => [c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    size, *values = page.eval_on_selector(selector, script)
    return np.array(values).reshape(size, size, 4)[..., :3]


def test_alpha_is_kept(ready, runs, tmp_path):
    page = ready("alpha")
    model = load_model(runs["alpha"])
    for name in ("colour.png", "large.png", "transparent.png"):
        path = tmp_path / name
        path.write_bytes(IMAGES[name]())
        page.set_input_files("#file", path)
        page.wait_for_selector("#own:not([hidden])")
        page.wait_for_timeout(500)
        images = load_images(runs["alpha"], path)
        for canvas, expected in {"#original": images, "#reconstruction": model.reconstruct(images)}.items():
            pixels = (255 * expected[0]).round().permute(1, 2, 0).numpy()
            script = "c => [c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
            size, *values = page.eval_on_selector(canvas, script)
            seen = np.array(values).reshape(size, size, 4)
            assert np.abs(seen[..., 3] - pixels[..., 3]).max() <= 1
            # Canvases hold colours multiplied by alpha: what is seen of them is compared.
            difference = (seen - pixels)[..., :3] * pixels[..., 3:] / 255
            assert np.abs(difference).max() <= 2, (name, canvas)
    assert page.problems == []


def changed(page, selector, before):
    """The pixels of a canvas once they differ from those before."""
    for _ in range(200):
        if not np.array_equal(now := shown(page, selector), before):
            return now
        page.wait_for_timeout(50)
    raise AssertionError(f"{selector} stays as it is")


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["grey", "colour", "sphere"])
def test_it_loads_moves_and_samples(ready, name, width):
    page = ready(name, width)
    assert page.inner_text("#status") == ""
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    first = shown(page, "#picture")
    page.fill("#slider-0", page.get_attribute("#slider-0", "max"))
    moved = changed(page, "#picture", first)
    page.check("input[value=latents]")
    values = [float(page.input_value("#slider-0"))]
    for key in ("ArrowLeft", "PageDown", "PageUp", "ArrowRight"):
        page.press("#slider-0", key)
        values.append(float(page.input_value("#slider-0")))
    assert values[0] > values[1] > values[2]
    assert values[4] == pytest.approx(values[0])
    for _ in range(10):
        page.press("#slider-0", "PageDown")
    moved = changed(page, "#picture", moved)
    page.click("#sample")
    first = changed(page, "#picture", moved)
    page.click("#sample")
    changed(page, "#picture", first)
    grid = "#samples button:first-child canvas"
    samples = shown(page, grid)
    page.click("#samples-new")
    samples = changed(page, grid, samples)
    page.click("#samples button:first-child")
    page.wait_for_timeout(500)
    assert np.abs(shown(page, "#picture") - samples).max() <= 1
    assert page.problems == []


def test_interpolation_goes_from_image_to_image(ready, runs):
    page = ready("sphere")
    middle = shown(page, "#between")
    page.fill("#position", "0")
    changed(page, "#between", middle)
    page.wait_for_timeout(500)
    first = shown(page, "#between")
    assert np.abs(first - shown(page, "#strip canvas:first-child")).max() <= 1
    page.fill("#position", "100")
    last = changed(page, "#between", first)
    page.wait_for_timeout(500)
    assert np.abs(shown(page, "#between") - shown(page, "#strip canvas:last-child")).max() <= 1
    page.focus("#to input:checked")
    page.keyboard.press("ArrowRight")
    changed(page, "#between", last)
    assert page.problems == []


def turned(size, mode):
    """A JPEG on its side, as telephones write them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    photograph(size, mode).save(file, "JPEG", quality=95, exif=exif, subsampling=0)
    return file.getvalue()


def png(size, mode):
    file = io.BytesIO()
    photograph(size, mode).save(file, "PNG")
    return file.getvalue()


IMAGES = {
    "grey.png": lambda: png((16, 16), "L"),
    "colour.png": lambda: png((61, 37), "RGB"),
    "small.png": lambda: png((9, 11), "RGB"),
    "large.png": lambda: png((1234, 777), "RGB"),
    "transparent.png": lambda: png((40, 50), "RGBA"),
    "turned.jpg": lambda: turned((53, 40), "RGB"),
}


@pytest.mark.parametrize("run", ["grey", "colour"])
def test_a_visitors_image_is_reconstructed_as_by_torch(ready, runs, run, tmp_path):
    page = ready(run)
    model = load_model(runs[run])
    for name, content in IMAGES.items():
        path = tmp_path / name
        path.write_bytes(content())
        page.set_input_files("#file", path)
        page.wait_for_selector("#own:not([hidden])")
        page.wait_for_timeout(500)
        images = load_images(runs[run], path)
        for canvas, expected in {"#original": images, "#reconstruction": model.reconstruct(images)}.items():
            pixels = (255 * expected[0]).round().permute(1, 2, 0).numpy()
            assert np.abs(shown(page, canvas) - pixels).max() <= 2, (name, canvas)
    page.click("#own-from")
    page.click("#own-to")
    page.click("#own-explore")
    page.wait_for_timeout(500)
    assert np.abs(shown(page, "#picture") - shown(page, "#reconstruction")).max() <= 1
    assert page.problems == []


def test_images_are_dropped_and_others_refused(ready):
    page = ready("grey")
    drop = """async ([bytes, name]) => {
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(bytes)], name));
        document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: files, bubbles: true}));
    }"""
    page.evaluate(drop, [list(png((20, 20), "RGB")), "a.png"])
    page.wait_for_selector("#own:not([hidden])")
    page.evaluate(drop, [list(b"no image"), "notes.txt"])
    page.wait_for_selector("#own", state="hidden")
    assert page.inner_text("#problem") == "notes.txt is no image that your browser can read."
    assert page.problems == []


def test_a_page_without_its_networks_says_so(browser, site, root):
    (root / "site" / "broken").mkdir(exist_ok=True)
    page_file = (root / "site" / "grey" / "index.html").read_text()
    (root / "site" / "broken" / "index.html").write_text(page_file)
    page = browser(f"{site}/broken/index.html")
    page.wait_for_selector("#status.failed", timeout=WAIT)
    assert "The model does not run here." in page.inner_text("#status")
    page.close()
    page = browser((root / "site" / "grey" / "index.html").as_uri())
    page.wait_for_selector("#status.failed", timeout=WAIT)
    assert "python -m http.server" in page.inner_text("#status")
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_controls_have_names_and_text_contrast(ready, scheme):
    page = ready("grey")
    page.emulate_media(color_scheme=scheme)
    unnamed = """[...document.querySelectorAll("button, input, canvas[role]")].filter(e =>
        !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).map(e => e.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert torch.tensor(page.evaluate(CONTRASTS)).min() >= 4.5


# Of the colours of text and of its background, by WCAG 2.
CONTRASTS = """(() => {
    const colour = text => text.match(/[0-9.]+/g).slice(0, 3).map(Number);
    const light = rgb => rgb.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const behind = e => {
        const own = getComputedStyle(e).backgroundColor;
        return own === "rgba(0, 0, 0, 0)" ? behind(e.parentElement) : own;
    };
    return [...document.querySelectorAll("h1, h2, p, small, label, button, figcaption, legend, output, a, .button")]
        .filter(e => e.offsetParent && e.textContent.trim())
        .map(e => [light(colour(getComputedStyle(e).color)), light(colour(behind(e)))])
        .map(([a, b]) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05));
})()"""
