"""Generated shapes: areas, centres and sizes by formulas, their factors, and factors of users' own tables."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evae.data.factors import read_factors
from evae.data.shapes import FACTORS, SHAPES, draw_factors, render, shapes
from evae.errors import DataError

# Of size 1: the square in its circle, the ellipse of half-axes 1 and ½, and a square of side 2 with two half-discs.
_HEART = 1.7836116248912244
AREAS = (2, math.pi / 2, (4 + math.pi) / _HEART**2)


@pytest.mark.parametrize("shape", range(3))
@pytest.mark.parametrize(("size", "orientation"), [(0.1, 0.3), (0.17, 0.0), (0.24, 1.2)])
def test_images_have_the_area_of_their_shape(shape, size, orientation):
    image = render(shape, 0.47, 0.53, size, orientation)
    assert image.sum() / 255 / 64**2 == pytest.approx(AREAS[shape] * size**2, rel=0.02)


@pytest.mark.parametrize("shape", range(2))
def test_x_is_from_the_left_and_y_from_the_top(shape):
    image = render(shape, 0.3, 0.6, 0.15, 0.7).astype(float)
    centres = (np.arange(64) + 0.5) / 64
    assert (image.sum(0) @ centres) / image.sum() == pytest.approx(0.3, abs=1e-3)
    assert (image.sum(1) @ centres) / image.sum() == pytest.approx(0.6, abs=1e-3)


@pytest.mark.parametrize("shape", range(3))
def test_the_size_is_the_radius_of_a_circle_around_the_shape(shape):
    image = render(shape, 0.5, 0.5, 0.24, 0.4, side=256)
    y, x = (np.argwhere(image > 127).T + 0.5) / 256 - 0.5
    assert np.hypot(x, y).max() == pytest.approx(0.24, abs=0.006)


def test_orientations_turn_shapes():
    """A quarter turn leaves a square as it is, and turns an ellipse and a heart."""
    upright, turned = (render(0, 0.5, 0.5, 0.2, angle) for angle in (0, math.pi / 2))
    assert (upright == turned).all()
    for shape in (1, 2):
        upright, turned = (render(shape, 0.5, 0.5, 0.2, angle) for angle in (0, math.pi / 2))
        assert (np.abs(np.rot90(upright, -1).astype(int) - turned) <= 1).all()
        assert (np.abs(upright.astype(int) - turned) > 100).any()


def test_a_heart_has_its_tip_below():
    rows = render(2, 0.5, 0.5, 0.24, 0.0).sum(1)
    assert rows[:32].sum() > rows[32:].sum()


def test_no_shape_leaves_the_image_at_the_ends_of_the_ranges():
    for shape in range(3):
        image = render(shape, 0.25, 0.25, 0.24, math.pi / 4, side=200)
        assert not image[:2].any()
        assert not image[:, :2].any()


def test_factors_are_independent_draws_from_their_ranges():
    values = draw_factors(4000, seed=3)
    assert (values == draw_factors(4000, seed=3)).all()
    low, high = values.min(0), values.max(0)
    assert low == pytest.approx([0, 0.25, 0.25, 0.1, 0], abs=2e-3)
    assert high == pytest.approx([2, 0.75, 0.75, 0.24, math.pi / 2], abs=2e-3)
    assert np.abs(np.corrcoef(values.T) - np.eye(5)).max() < 0.06


def test_shapes_are_a_source_whose_images_are_those_of_its_factors():
    source = shapes()
    rows = list(zip(range(3), source.rows(), strict=False))
    assert source.factors.names == FACTORS
    for _, row in rows:
        (values,) = source.factors.of([row.name])
        assert (row.payload == render(int(values[0]), *values[1:])).all()
        assert row.label == values[0]
        assert SHAPES[row.label] in source.class_names


class TestTables:
    def test_numbers_and_classes_by_the_name_of_the_image(self, tmp_path):
        path = tmp_path / "factors.csv"
        path.write_text("file,angle,kind,whole,is_new\nb.png,0.5,cat,1,true\na.png,,dog,2,false\nc.png,1.5,,2,true\n")
        found = read_factors(path)
        assert found.names == ("angle", "kind", "whole", "is_new")
        assert found.is_class == (False, True, True, True)
        values = found.of(["a.png", "b.png", "other.png"])
        assert values == pytest.approx(np.array([[np.nan, 1, 1, 0], [0.5, 0, 0, 1], [np.nan] * 4]), nan_ok=True)

    def test_rows_are_numbered_without_names_and_other_columns_left_out(self, tmp_path):
        path = tmp_path / "images.parquet"
        columns = {"image": [b"1", b"2"], "vector": [[1.0], [2.0]], "size": [0.1, math.inf]}
        pq.write_table(pa.table(columns), path)
        found = read_factors(path)
        assert found.names == ("size",)
        assert found.of(["1", "0"]) == pytest.approx(np.array([[np.nan], [0.1]]), nan_ok=True)

    def test_many_whole_numbers_are_numbers(self, tmp_path):
        path = tmp_path / "factors.csv"
        path.write_text("index,size\n" + "".join(f"{i},{i}\n" for i in range(60)))
        assert read_factors(path).is_class == (False,)

    def test_the_digest_changes_with_values_and_names(self, tmp_path):
        digests = set()
        for i, text in enumerate(["file,a\nx,0.5\n", "file,a\nx,0.6\n", "file,a\ny,0.5\n", "file,b\nx,0.5\n"]):
            (tmp_path / f"{i}.csv").write_text(text)
            digests.add(read_factors(tmp_path / f"{i}.csv").digest)
        assert len(digests) == 4

    @pytest.mark.parametrize("text", ["file\na.png\n", "", "index,a\n1\n2,3,4\n"])
    def test_what_has_no_factors_is_refused_in_a_sentence(self, tmp_path, text):
        path = tmp_path / "factors.csv"
        path.write_text(text)
        with pytest.raises(DataError, match="--factors .*factors.csv"):
            read_factors(path)
