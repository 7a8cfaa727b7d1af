"""Alpha, other numbers of channels, values of more than 8 bits, and colours with ICC profiles."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from evae.data import open_store
from evae.data.arrays import channel_axis
from evae.data.colour import to_srgb
from evae.data.decode import BadImageError, decode
from evae.data.levels import WORD, white_of
from evae.errors import ConfigError, DataError
from evae.figures import shown

RNG = np.random.default_rng(0)
D50 = (0.9642, 1.0, 0.8249)
# Columns X, Y, Z of the primaries, adapted to D50.
DISPLAY_P3 = ((0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))


def fixed(*values):
    return b"".join(struct.pack(">i", round(65536 * value)) for value in values)


def profile(space, tags, version=0x02400000):
    """An ICC profile of a display or printer with these tags."""
    tags = {b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50)} | tags
    table, data, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        table += name + struct.pack(">II", start + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    kind, pcs = (b"prtr", b"Lab ") if space == b"CMYK" else (b"mntr", b"XYZ ")
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"lcms", version, kind, space, pcs) + bytes(12) + b"acsp"
    head += bytes(28) + fixed(*D50)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(256 * value)) + b"\0\0"


def rgb_profile(primaries, exponent=2.2):
    xyz = {
        name: b"XYZ \0\0\0\0" + fixed(*column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    return profile(b"RGB ", xyz | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma(exponent)))


def cmyk_profile():
    """CMYK to Lab by a table of the corners: ink makes L = 50, black L = 0, no ink L = 100, without colour."""
    corners = np.zeros((2, 2, 2, 2, 3))
    corners[..., 0] = 50
    corners[..., 1, 0] = 0
    corners[0, 0, 0, 0, 0] = 100
    corners = (corners * [255 / 100, 1, 1] + [0, 128, 128]).round().astype(np.uint8)
    ramp = bytes(range(256))
    lut = (
        b"mft1\0\0\0\0"
        + bytes([4, 3, 2, 0])
        + fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
        + 4 * ramp
        + corners.tobytes()
        + 3 * ramp
    )
    return profile(b"CMYK", {b"A2B0": lut})


def encoded(image, form="PNG", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def flat(mode, colour):
    return Image.new(mode, (8, 8), colour)


class TestProfiles:
    @pytest.mark.parametrize(
        ("primaries", "colour"),
        [(DISPLAY_P3, (200, 100, 50)), (ADOBE_RGB, (100, 180, 60)), (DISPLAY_P3, (40, 90, 140))],
    )
    @pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
    def test_colours_are_converted(self, primaries, colour, form):
        """By hand: linear light, by the primaries to XYZ of D50, by those of sRGB back, sRGB's curve."""
        srgb = np.array(((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141))).T
        light = np.linalg.solve(srgb, np.array(primaries).T @ (np.array(colour) / 255) ** 2.2).clip(0, 1)
        expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
        options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {"lossless": True} if form == "WEBP" else {}
        content = encoded(flat("RGB", colour), form, icc_profile=rgb_profile(primaries), **options)
        assert np.abs(decode(content, 8)[:, 4, 4] - expected).max() <= 2.5
        assert np.abs(expected - colour).max() > 8

    def test_alpha_is_kept_and_palettes_are_followed(self):
        icc = rgb_profile(DISPLAY_P3)
        plain = decode(encoded(flat("RGB", (200, 100, 50)), icc_profile=icc), 8)
        pixels = decode(encoded(flat("RGBA", (200, 100, 50, 77)), icc_profile=icc), 8, channels="rgba")
        assert (pixels[3] == 77).all()
        assert np.array_equal(pixels[:3], plain)
        palette = flat("RGB", (200, 100, 50)).quantize(2)
        assert np.abs(decode(encoded(palette, icc_profile=icc), 8).astype(int) - plain).max() <= 1

    def test_grey_stays_grey(self):
        icc = profile(b"GRAY", {b"kTRC": gamma(1.0)})
        pixels = decode(encoded(flat("L", 55), icc_profile=icc), 8)
        assert pixels.shape == (1, 8, 8)
        assert abs(int(pixels[0, 0, 0]) - 128) <= 1  # 55/255 of the light
        with_alpha = decode(encoded(flat("LA", (55, 255)), icc_profile=icc), 8)
        assert np.array_equal(with_alpha, pixels)

    @pytest.mark.parametrize("form", ["JPEG", "TIFF"])
    def test_cmyk(self, form):
        naive = decode(encoded(flat("CMYK", (255, 0, 0, 0)), form), 8)[:, 4, 4]
        assert np.abs(naive.astype(int) - [0, 255, 255]).max() <= 3
        ink = decode(encoded(flat("CMYK", (255, 0, 0, 0)), form, icc_profile=cmyk_profile()), 8)[:, 4, 4]
        paper = decode(encoded(flat("CMYK", (0, 0, 0, 0)), form, icc_profile=cmyk_profile()), 8)[:, 4, 4]
        assert np.abs(ink.astype(int) - 119).max() <= 4  # L = 50
        assert paper.min() >= 250

    def test_ycck_jpegs(self):
        """The bands of an Adobe file, which holds complements, as Y, Cb, Cr and K: the transform is byte 11."""
        content = bytearray(encoded(flat("CMYK", (255 - 100, 255 - 128, 255 - 128, 255 - 255)), "JPEG", quality=100))
        content[content.index(b"Adobe") + 11] = 2
        # Y = 100 is that of the complements of what is stored: 100 of 255 of each ink, and no black.
        assert np.abs(decode(bytes(content), 8)[:, 4, 4].astype(int) - 155).max() <= 2

    @pytest.mark.parametrize("icc", [b"no profile", rgb_profile(DISPLAY_P3)[:150], cmyk_profile()])
    def test_broken_profiles_and_those_of_others_are_ignored(self, icc):
        content = encoded(flat("RGB", (200, 100, 50)), icc_profile=icc)
        assert decode(content, 8)[:, 0, 0].tolist() == [200, 100, 50]

    def test_srgb_costs_nothing(self):
        image = flat("RGB", 9)
        image.info["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        assert to_srgb(image) is None


class TestAlpha:
    def test_is_the_fourth_channel(self):
        """A disc on a transparent ground, of hidden black: white where alpha is 0, its own colour elsewhere."""
        y, x = np.mgrid[:40, :40]
        inside = (y - 20) ** 2 + (x - 20) ** 2 < 150
        pixels = np.where(inside[..., None], (10, 200, 30, 255), (0, 0, 0, 0)).astype(np.uint8)
        for size in (40, 10):
            decoded = decode(encoded(Image.fromarray(pixels)), size, channels="rgba")
            assert decoded.shape == (4, size, size)
            colours = decoded[:3].reshape(3, -1).T[decoded[3].ravel() > 20]
            assert np.abs(colours.astype(int) - (10, 200, 30)).max() <= 6
            assert (decoded[:3, 0, 0] == 255).all()
            assert decoded[3, 0, 0] == 0

    @pytest.mark.parametrize(
        ("image", "expected"),
        [
            (flat("RGB", (1, 2, 3)), [1, 2, 3, 255]),
            (flat("L", 7), [7, 7, 7, 255]),
            (flat("LA", (7, 9)), [7, 7, 7, 9]),
            (flat("I;16", 257 * 7), [7, 7, 7, 255]),
        ],
    )
    def test_other_modes(self, image, expected):
        assert decode(encoded(image), 8, channels="rgba")[:, 0, 0].tolist() == expected

    def test_the_account_tells(self, tmp_path):
        for i in range(8):
            colour = (*RNG.integers(0, 256, 3).tolist(), 255 if i else 0)
            flat("RGBA", colour).save(tmp_path / f"{i}.png")
        over_white = open_store(tmp_path, 8).account
        assert over_white.channels == 3
        assert "alpha: 1 of 8 images laid over white; --channels rgba keeps alpha" in str(over_white)
        kept = open_store(tmp_path, 8, channels="rgba")
        assert kept.image_shape == (4, 8, 8)
        assert "alpha: 1 of 8 images are transparent" in str(kept.account)
        (tmp_path / "0.png").unlink()
        assert "--channels rgba is of no use" in str(open_store(tmp_path, 8, channels="rgba").account)

    def test_grey_and_rgb(self, tmp_path):
        for i in range(8):
            flat("L", 30 * i).save(tmp_path / f"{i}.png")
        assert open_store(tmp_path, 8, channels="rgb").image_shape == (3, 8, 8)
        flat("RGB", (255, 0, 0)).save(tmp_path / "8.png")
        assert open_store(tmp_path, 8).image_shape == (3, 8, 8)
        assert open_store(tmp_path, 8, channels="grey").image_shape == (1, 8, 8)

    def test_ground_of_figures(self):
        pixels = np.zeros((1, 4, 16, 16), np.uint8)
        assert sorted(np.unique(shown(pixels))) == [224, 255]
        pixels[:, 3] = 255
        assert not shown(pixels).any()
        assert shown(np.full((2, 5, 4, 4), 9, np.uint8)).shape == (2, 3, 4, 4)
        assert not shown(np.full((2, 2, 4, 4), 9, np.uint8))[:, 2].any()


class TestArrays:
    @pytest.mark.parametrize(("first", "count"), [(True, 5), (False, 5), (True, 2), (False, 12)])
    def test_any_number_of_channels(self, tmp_path, first, count):
        images = RNG.integers(0, 256, (30, 8, 8, count), np.uint8)
        np.save(tmp_path / "a.npy", images.transpose(0, 3, 1, 2) if first else images)
        store = open_store(tmp_path / "a.npy", 8)
        assert store.image_shape == (count, 8, 8)
        assert np.array_equal(store.train.read(slice(0, 1))[0], images[int(store.train.names[0])].transpose(2, 0, 1))
        assert f"channels: {count}, the {'second' if first else 'last'} axis" in str(store.account)

    @pytest.mark.parametrize(
        ("shape", "axis"),
        [
            ((9, 28, 28, 1), 3),
            ((9, 3, 40, 30), 1),
            ((9, 16, 16, 200), 3),
            ((9, 200, 16, 16), 1),
            ((9, 12, 40, 30), 1),
            ((9, 40, 30, 12), 3),
        ],
    )
    def test_the_axis_of_channels(self, shape, axis):
        assert channel_axis("a.npy", shape) == axis

    @pytest.mark.parametrize("shape", [(9, 12, 20, 12), (9, 8, 8, 8)])
    def test_that_may_be_either(self, shape):
        with pytest.raises(DataError, match=r"may be \(N, H, W, C\) or \(N, C, H, W\)"):
            channel_axis("a.npy", shape)

    @pytest.mark.parametrize(
        ("dtype", "top", "white"),
        [(np.uint16, 65535, WORD), (np.uint16, 4095, 4095), (np.int64, 255, 255), (np.int32, 1, 1), (bool, 1, None)],
    )
    def test_whole_numbers(self, tmp_path, dtype, top, white):
        images = RNG.integers(0, top + 1, (30, 8, 8)).astype(dtype)
        images[:, 0, 0] = top
        np.save(tmp_path / "a.npy", images)
        store = open_store(tmp_path / "a.npy", 8)
        expected = images[int(store.train.names[0])] * (255.0 / top)
        assert np.abs(store.train.read(slice(0, 1))[0, 0] - expected).max() < (1 if top == WORD else 0.501)
        assert store.scaling.words == (white or WORD)
        assert ("8 bits are kept" in str(store.account)) == (top > 255)

    @pytest.mark.parametrize(("values", "lost"), [(np.arange(256) / 255, False), (np.linspace(0, 1, 999), True)])
    def test_what_is_lost_of_floats(self, tmp_path, values, lost):
        images = RNG.choice(values, (30, 5, 8, 8)).astype(np.float32)
        images[:, :, 0, 0] = 1
        np.save(tmp_path / "a.npy", images)
        store = open_store(tmp_path / "a.npy", 8)
        assert store.image_shape == (5, 8, 8)
        assert ("8 bits are kept of each value" in str(store.account)) == lost

    def test_floats_up_to_255(self, tmp_path):
        np.save(tmp_path / "a.npy", RNG.integers(0, 256, (30, 8, 8)).astype(float))
        assert open_store(tmp_path / "a.npy", 8).scaling.floats == 1

    @pytest.mark.parametrize("largest", [0, 1, 2, 255, 256, 4095, 16447, 16448, 65535])
    def test_white(self, largest):
        assert white_of(largest) == {0: 255, 1: 1, 2: 255, 255: 255, 256: 511, 4095: 4095, 16447: 32767}.get(
            largest, WORD
        )

    @pytest.mark.parametrize(("count", "channels"), [(3, "rgba"), (1, "rgba"), (5, "rgba"), (5, "rgb"), (5, "grey")])
    def test_that_do_not_have_the_channels(self, tmp_path, count, channels):
        np.save(tmp_path / "a.npy", RNG.integers(0, 256, (20, 8, 8, count), np.uint8))
        with pytest.raises(DataError, match=f"{count} channel.*--channels {channels}"):
            open_store(tmp_path / "a.npy", 8, channels=channels)

    def test_rows_have_no_channels(self, tmp_path):
        np.save(tmp_path / "a.npy", RNG.random((20, 3)))
        with pytest.raises(ConfigError, match="--channels are for images"):
            open_store(tmp_path / "a.npy", channels="rgba")


class TestPages:
    def pages(self, count, dtype=np.uint8):
        top = np.iinfo(dtype).max
        return [Image.fromarray(RNG.integers(0, top, (10, 12), dtype, endpoint=True)) for _ in range(count)]

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_are_channels(self, tmp_path, dtype):
        for i in range(9):
            first, *more = self.pages(5, dtype)
            first.save(tmp_path / f"{i}.tif", save_all=True, append_images=more)
        store = open_store(tmp_path, 10)
        assert store.image_shape == (5, 10, 10)
        with Image.open(tmp_path / store.train.names[0]) as file:
            for channel in range(5):
                file.seek(channel)
                values = np.asarray(file)[:, 1:11] // (1 if dtype == np.uint8 else 257)
                assert np.array_equal(store.train.read(slice(0, 1))[0, channel], values)
        grey = open_store(tmp_path, 10, channels="grey")
        assert grey.image_shape == (1, 10, 10)
        with Image.open(tmp_path / grey.train.names[0]) as file:
            values = np.asarray(file)[:, 1:11] // (1 if dtype == np.uint8 else 257)
        assert np.array_equal(grey.train.read(slice(0, 1))[0, 0], values)
        assert "9 of 9 images have channels or pages that are not read" in str(grey.account)

    @pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
    def test_of_all_compressions_and_turned(self, compression):
        pages = self.pages(3)
        content = encoded(
            pages[0], "TIFF", save_all=True, append_images=pages[1:], compression=compression, tiffinfo={274: 3}
        )
        pixels = decode(content, 10)
        assert np.array_equal(pixels, np.stack([np.asarray(page)[::-1, 10:0:-1] for page in pages]))
        first = decode(content, 10, channels="grey")
        assert np.array_equal(first[0], pixels[0])
        one = encoded(pages[0], "TIFF", compression=compression)
        assert np.array_equal(decode(one, 10)[0], np.asarray(pages[0])[:, 1:11])

    def test_beside_other_images(self, tmp_path):
        for i, count in enumerate([1, 1, 5]):
            first, *more = self.pages(count)
            first.save(tmp_path / f"{i}.tif", save_all=True, append_images=more)
        with pytest.raises(DataError, match=r"0.tif has 1 or 3 channels and .*2.tif has 5; .* --?channels grey|need"):
            open_store(tmp_path, 10)

    def test_previews_are_none(self):
        first, second = self.pages(2)
        content = encoded(first, "TIFF", save_all=True, append_images=[second.resize((4, 4))])
        assert decode(content, 10).shape == (1, 10, 10)

    def test_of_too_many(self, monkeypatch):
        first, *more = self.pages(4)
        monkeypatch.setattr("evae.data.decode._MAX_PAGES", 3)
        with pytest.raises(BadImageError, match="more than 3 pages"):
            decode(encoded(first, "TIFF", save_all=True, append_images=more), 10)
