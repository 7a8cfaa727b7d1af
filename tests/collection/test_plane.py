"""Points of a map: neighbours, purity and trustworthiness against definitions; sprites."""

import io
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from evae.collection.columns import classes, of_file
from evae.collection.plane import neighbours, place, purity, trustworthiness
from evae.collection.sprites import Sprites, side_for
from evae.errors import DataError


def test_pca_keeps_the_largest_variance():
    rng = np.random.default_rng(0)
    codes = (rng.normal(size=(300, 4)) * [5, 3, 0.1, 0.1]).astype(np.float32)
    plane = place(codes, "pca", 0)
    assert plane.points.shape == (300, 2)
    assert plane.explained == pytest.approx(1, abs=1e-2)
    distances = [np.linalg.norm(a[:, None] - a[None], axis=-1) for a in (codes[:, :2], plane.points)]
    np.testing.assert_allclose(*distances, atol=0.6)
    assert trustworthiness(codes, plane.points, 0)[0] > 0.95
    assert trustworthiness(codes[:10], plane.points[:10], 0) is None


def test_codes_that_are_all_the_same_have_a_place():
    assert np.isfinite(place(np.ones((5, 3), np.float32), "pca", 0).points).all()
    assert place(np.ones((5, 1), np.float32), "pca", 0).points.shape == (5, 2)


def test_neighbours_leave_an_image_out_also_among_copies():
    points = np.zeros((6, 2), np.float32)
    points[5] = 1
    rows, distances = neighbours(points, 12)
    assert rows.shape == (6, 5)
    assert all(i not in row for i, row in enumerate(rows.tolist()))
    assert distances[0].tolist() == pytest.approx([0, 0, 0, 0, 2**0.5])


def test_purity():
    labels = np.array([0] * 12 + [1] * 12)
    points = np.arange(24, dtype=np.float32)[:, None] + 100 * labels[:, None].astype(np.float32)
    rows, _ = neighbours(points, 12)
    same, chance = purity(rows, labels)
    assert same == 1
    assert chance == pytest.approx(11 / 23)
    assert purity(rows, np.zeros(24, int)) is None


def test_sprites_hold_the_images_in_order(monkeypatch):
    monkeypatch.setattr("evae.collection.sprites._SHEET", 200)  # 3 by 3 images
    images = np.random.default_rng(0).integers(0, 2, (14, 1, 1, 1), np.uint8) * np.full((1, 1, 64, 64), 255, np.uint8)
    sprites = Sprites(64)
    sprites.add(images)
    record = sprites.record()
    assert len(record["sheets"]) == 2
    sheet = np.asarray(Image.open(io.BytesIO(b64decode(record["sheets"][1].partition(",")[2]))))
    assert sheet.shape == (128, 192, 3)
    brightness = [sheet[y : y + 64, x : x + 64].mean() for y in (0, 64) for x in (0, 64, 128)]
    np.testing.assert_allclose(brightness[:5], images[9:, 0, 0, 0], atol=2)


def test_many_images_are_small():
    assert side_for(100, 32) == 32
    assert side_for(100, 256) == 64
    assert side_for(50_000, 64) == 32
    assert side_for(10**6, 64) == 16


def test_columns_of_a_file(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("file,p_value,outlier,note\nb.png,0.5,false,\na.png,0.001,true,x\nc.png,,false,\n")
    found = {column["name"]: column for column in of_file(path, ["a.png", "b.png", "d.png"])}
    values = np.frombuffer(b64decode(found["p_value"]["values"]), "<f4")
    np.testing.assert_allclose(values, [0.001, 0.5, np.nan], rtol=1e-6)
    assert found["outlier"]["names"] == ["False", "True"]
    assert np.frombuffer(b64decode(found["outlier"]["codes"]), "<u2").tolist() == [1, 0, 65535]
    assert found["note"]["names"] == ["x"]
    with pytest.raises(DataError, match="has none of the images"):
        of_file(path, ["z.png"])
    path.write_text("name\na\n")
    with pytest.raises(DataError, match="no column file or index"):
        of_file(path, ["a"])
    with pytest.raises(DataError, match="cannot be read as CSV"):
        of_file(tmp_path / "none.csv", ["a"])


def test_classes_in_their_natural_order():
    assert classes("label", [10, 9, 2, None])["names"] == ["2", "9", "10"]
    assert classes("label", [None]) is None
