"""evae audit: planted cases are found, the table has a row for each file, and false alarms hold."""

import csv
import io
import time

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from evae import audit, open_store
from evae.cli import main
from evae.collection import outliers
from evae.errors import ConfigError, RunError
from tests.browser import chromium, served
from tests.collection.conftest import pictures, written

COLUMNS = ["file", "split", "readable", "duplicate_of", "near_duplicate_of", "error", "p_value", "outlier"]


def rows_of(folder):
    with (folder / "audit.csv").open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


@pytest.fixture
def quick(monkeypatch):
    """Two steps of training."""
    monkeypatch.setattr(outliers, "_STEPS", (2, 2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """60 pictures in train and test, an exact and a near duplicate across splits, one within, and broken files."""
    root = tmp_path_factory.mktemp("audit") / "photos"
    formats = [".png", ".jpg", ".bmp", ".tif"]
    names = [f"{'test' if i % 5 == 0 else 'train'}/{i:02}{formats[i % 4]}" for i in range(60)]
    images = pictures(60)
    written(root, images, names)
    (root / "test" / "copy.png").write_bytes((root / "train" / "04.png").read_bytes())
    Image.fromarray(images[9]).resize((30, 30)).save(root / "test" / "small.jpg")
    (root / "train" / "other.bmp").write_bytes((root / "train" / "06.bmp").read_bytes())
    (root / "train" / "broken.png").write_bytes(b"no image")
    (root / "val").mkdir()
    (root / "val" / "empty.jpg").write_bytes(b"")
    (root / "notes.md").write_text("# Notes")
    return root


def test_planted_cases(photos, tmp_path, quick, capsys):
    found = audit(photos, tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    assert list(next(iter(rows.values()))) == COLUMNS
    assert len(rows) == found.files == 65
    assert found.unreadable == ["train/broken.png", "val/empty.jpg"]
    assert rows["train/broken.png"] == dict.fromkeys(COLUMNS, "") | {
        "file": "train/broken.png", "split": "train", "readable": "false",
    }  # fmt: skip
    assert rows["val/empty.jpg"]["split"] == "validation"
    assert rows["test/copy.png"]["duplicate_of"] == "train/04.png"
    assert rows["test/small.jpg"]["near_duplicate_of"] == "train/09.jpg"
    assert rows["train/other.bmp"]["duplicate_of"] == "train/06.bmp"
    assert sorted(found.leaks) == ["test/copy.png", "test/small.jpg"]
    assert found.duplicates == ["test/copy.png", "train/other.bmp"]
    assert found.near_duplicates == ["test/small.jpg"]
    assert "65 files: 2 unreadable, 2 exact and 1 near duplicates, 2 of them across splits, 0 outliers" in " ".join(
        capsys.readouterr().err.split()
    )
    page = found.page.read_text()
    assert "train/broken.png</b> is not an image" in page
    assert "notes.md" in page
    assert "No p-value is below 0.033" in page


@pytest.mark.slow
def test_the_same_again_and_other_levels(photos, tmp_path, quick):
    first = audit(photos, tmp_path / "a", false_alarms=0.1)
    second = audit(photos, tmp_path / "b", false_alarms=0.1)
    assert first.table.read_bytes() == second.table.read_bytes()
    p = [float(row["p_value"]) for row in rows_of(tmp_path / "a").values() if row["p_value"]]
    assert len(first.outliers) == sum(value <= 0.1 for value in p) >= 4
    assert audit(photos, tmp_path / "a", false_alarms=0.01).outliers == []  # replaces its own


def test_files_of_others_are_kept(photos, tmp_path, quick):
    (tmp_path / "audit.csv").write_text("mine")
    with pytest.raises(RunError, match="evae did not write it as an audit"):
        audit(photos, tmp_path)
    assert (tmp_path / "audit.csv").read_text() == "mine"


def test_few_images_have_no_outliers(tmp_path, capsys):
    data = written(tmp_path / "data", pictures(5), [f"{i}.png" for i in range(5)])
    found = audit(data, tmp_path / "out")
    assert found.outliers == []
    assert "at least 40 different images" in capsys.readouterr().err
    assert "too few images" in found.page.read_text()


def test_by_a_run(run, blobs, tmp_path):
    """Its hold-out images are compared with each other, and so are its training images."""
    audit(blobs, tmp_path, run=run, false_alarms=0.05)
    rows = list(rows_of(tmp_path).values())
    p = np.array([float(row["p_value"]) for row in rows])
    store = open_store(blobs, 16)
    assert sorted(p[48:]) == pytest.approx([k / 16 for k in range(1, 17)], rel=1e-5)
    distinct = len(np.unique(store.train.read(slice(None)), axis=0))
    assert sorted(set(p[:48])) == pytest.approx([k / distinct for k in range(1, distinct + 1)], rel=1e-5)
    other = np.random.default_rng(0).integers(0, 256, (20, 16, 16), np.uint8)
    found = audit(other, tmp_path / "other", run=run, false_alarms=0.1)
    assert len(found.outliers) == 20  # each p is 1/17: no image is like the run's
    with pytest.raises(ConfigError, match="--image-size is that of the run"):
        audit(blobs, tmp_path, run=run, image_size=32)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--false-alarms", "1"], "false_alarms must be between 0 and 1"),
        (["--image-size", "20"], "--image-size must be 16, 32 or 64, not 20"),
        (["--image-column", "x"], "has no columns"),
    ],
)
def test_bad_options(photos, tmp_path, capsys, arguments, sentence):
    assert main(["audit", str(photos), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(photos, tmp_path, quick, width):
    audit(photos, tmp_path, false_alarms=0.1)
    with served(tmp_path) as url, chromium() as opened:
        page = opened(f"{url}/audit.html", width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert page.problems == []


@pytest.mark.slow
def test_a_mixed_folder(tmp_path):
    """3,000 pictures in six formats: 20 duplicates, 10 leaks and 20 outliers are found, with no more false alarms."""
    planted = planted_folder(tmp_path / "mixed", 2950)
    before = time.process_time()
    found = audit(tmp_path / "mixed", tmp_path / "out", seed=1)
    seconds = time.process_time() - before
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 3000
    for copy, original in (planted["duplicates"] | planted["leaks"]).items():
        assert original in (rows[copy]["duplicate_of"], rows[copy]["near_duplicate_of"]), copy
    assert set(planted["leaks"]) <= set(found.leaks)
    copies = {*found.duplicates, *found.near_duplicates} - {*planted["duplicates"], *planted["leaks"]}
    copies -= set(planted["outliers"])  # some of these are alike
    missed = set(planted["outliers"]) - set(found.outliers)
    alarms = set(found.outliers) - set(planted["outliers"])
    print(f"missed {missed}; {len(alarms)} false alarms of 2,980; {len(copies)} other copies; {seconds:.0f} s of CPU")
    assert not missed
    assert len(alarms) <= 0.01 * 2980
    assert len(copies) <= 2
    assert seconds < 2 * 300


def planted_folder(root, count):
    """Pictures in train and test, and what was planted, by kind."""
    rng, formats = np.random.default_rng(0), [".jpg", ".png", ".bmp", ".webp", ".tif", ".ppm"]
    images = np.concatenate([pictures(250, seed) for seed in range(-(-count // 250))])[:count]
    names = [f"{'test' if rng.random() < 0.2 else 'train'}/{i:04}{formats[rng.integers(6)]}" for i in range(count)]
    written(root, images, names)
    chosen = [i for i in rng.permutation(count) if names[i].startswith("train")][:30]
    planted = {"duplicates": {}, "leaks": {}, "outliers": []}
    for k, i in enumerate(chosen):
        kind, split = ("duplicates", "train") if k < 20 else ("leaks", "test")
        original = root / names[i]
        name, content = changed(original, k % 5)
        path = root / split / f"{kind}-{k:02}{name}"
        path.write_bytes(content)
        planted[kind][f"{split}/{path.name}"] = names[i]
    for k, image in enumerate(odd_pictures(20)):
        name = f"{'test' if k % 4 == 0 else 'train'}/odd-{k:02}{formats[k % 3]}"
        written(root, [image], [name])
        planted["outliers"].append(name)
    return planted


def changed(path, kind):
    """A suffix and the content: the same, encoded again, resized, brightened, or in another format."""
    if kind == 0:
        return path.suffix, path.read_bytes()
    file, image = io.BytesIO(), Image.open(path).convert("RGB")
    if kind == 1:
        image.save(file, "JPEG", quality=70)
    elif kind == 2:
        image.resize((36, 36), Image.Resampling.BICUBIC).save(file, "PNG")
    elif kind == 3:
        ImageEnhance.Brightness(image).enhance(1.2).save(file, "PNG")
    else:
        image.save(file, "BMP")
    return {1: ".jpg", 2: ".png", 3: ".png", 4: ".bmp"}[kind], file.getvalue()


def odd_pictures(count, size=48):
    """Noise, stripes, single colours, letters and inverted pictures."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size]
    kinds = [
        lambda k: rng.integers(0, 256, (size, size, 3), np.uint8),
        lambda k: np.repeat(((x // (2 + k) + y // 7) % 2 * 255).astype(np.uint8)[..., None], 3, 2),
        lambda k: np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8),
        lambda k: (
            np.where((abs(x - 24) < 4 + k % 3) | (abs(y - 12) < 5), 255, 0).astype(np.uint8)[..., None].repeat(3, 2)
        ),
        lambda k: 255 - pictures(1, 1000 + k)[0],
    ]
    return [kinds[k % 5](k) for k in range(count)]
