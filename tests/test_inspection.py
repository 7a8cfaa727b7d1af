"""evae inspect: the account, and images as a model will see them; nothing of the data is touched."""

import numpy as np
import pytest
from PIL import Image

from evae import inspect, open_store
from evae.cli import main
from evae.errors import ConfigError, RunError


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of 40x20 pixels, from dark to bright, the left quarter white."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        pixels = np.full((20, 40, 3), 20 * i, np.uint8)
        pixels[:, :10] = 255
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


def test_the_account_and_the_images(photos, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    for _ in range(2):  # the account is printed again, and the sheet replaced
        assert main(["inspect", str(photos), "--out", str(sheet), "--image-size", "16"]) == 0
        said = capsys.readouterr().err
        assert str(open_store(photos, 16).account) in said
        assert "training images, colour, 16x16 pixels, in" in said
    images = open_store(photos, 16).train.images
    pixels = np.asarray(Image.open(sheet))
    times, side = pixels.shape[1] // (8 * 18 + 2), 18  # of an image and the gap of 2, before it was enlarged
    pixels = pixels[::times, ::times]
    for i, image in enumerate(images):
        row, column = divmod(i, 8)
        tile = pixels[2 + row * side :, 2 + column * side :][:16, :16]
        assert np.array_equal(tile, image.transpose(1, 2, 0))  # cropped: no white is left
        assert image.max() < 255


def test_images_are_spread_over_the_data(tmp_path):
    x = np.zeros((640, 8, 8), np.uint8)
    x[:, 0, 0] = np.arange(640) // 10
    np.savez(tmp_path / "d.npz", x_train=x, x_test=x[:9])
    inspect(str(tmp_path / "d.npz"), tmp_path / "sheet.png", image_size=8)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    sheet = sheet[:: len(sheet) // 82, :: len(sheet) // 82]
    assert sorted(sheet[2 + 10 * np.arange(8)][:, 2 + 10 * np.arange(8)].ravel()) == list(range(64))


def test_an_array(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)
    store = inspect(x, tmp_path / "sheet.png", image_size=8)
    assert len(store.train) + len(store.holdout) == 40


class TestOutputs:
    def test_not_among_the_images(self, photos, monkeypatch):
        monkeypatch.chdir(photos)
        with pytest.raises(RunError, match="would become one of its images; choose another"):
            inspect(".")
        assert not (photos / "contact-sheet.png").exists()

    def test_a_file_of_the_user(self, photos, tmp_path):
        file = tmp_path / "mine.png"
        Image.new("L", (4, 4)).save(file)
        before = file.read_bytes()
        with pytest.raises(RunError, match="evae did not write it as a contact sheet"):
            inspect(str(photos), file)
        assert file.read_bytes() == before
        inspect(str(photos), file, overwrite=True)
        assert file.read_bytes() != before

    @pytest.mark.parametrize("name", ["sheet.xyz", "sheet", "sheet.ico"])
    def test_formats_that_cannot_hold_it(self, photos, tmp_path, name):
        with pytest.raises(ConfigError, match=f"--out .*{name}: "):
            inspect(str(photos), tmp_path / name)
