"""Every kind of image file becomes an upright square of grey or RGB bytes."""

import contextlib
import io
import struct

import numpy as np
import pytest
from PIL import Image

from evae.data.decode import BadImageError, decode, shorter_side
from evae.data.levels import Scaling
from evae.errors import DataError


def encoded(image: Image.Image, format="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def flat(mode, colour, size=(20, 30)):
    return Image.new(mode, size, colour)


@pytest.mark.parametrize(
    ("image", "format", "expected"),
    [
        (flat("L", 100), "PNG", [100]),
        (flat("1", 1), "PNG", [255]),
        (flat("RGB", (10, 20, 30)), "PNG", [10, 20, 30]),
        (flat("RGBA", (10, 20, 30, 255)), "PNG", [10, 20, 30]),
        (flat("RGBA", (10, 20, 30, 0)), "PNG", [255, 255, 255]),
        (flat("RGBA", (0, 0, 0, 128)), "PNG", [127, 127, 127]),
        (flat("LA", (0, 0)), "PNG", [255]),
        (flat("CMYK", (255, 0, 0, 0)), "TIFF", [0, 255, 255]),
        (flat("F", 0.5), "TIFF", [128]),
        (flat("I", 65535), "TIFF", [255]),
        (flat("RGB", (10, 20, 30)).quantize(4), "PNG", [10, 20, 30]),
        (flat("RGB", (200, 200, 200)), "WEBP", [200, 200, 200]),
        (flat("RGB", (0, 0, 0)), "BMP", [0, 0, 0]),
    ],
    ids=lambda v: getattr(v, "mode", None),
)
def test_modes(image, format, expected):
    pixels = decode(encoded(image, format), 8)
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(expected), 8, 8)
    assert pixels[:, 4, 4].tolist() == expected


def test_16_bit_png():
    image = Image.fromarray(np.full((9, 9), 257 * 99, np.uint16))
    assert decode(encoded(image), 9)[0, 0, 0] == 99


def test_palette_with_transparency_over_white():
    image = flat("P", 0)
    image.putpalette([10, 20, 30, 0, 0, 0])
    assert decode(encoded(image, transparency=0), 4)[:, 0, 0].tolist() == [255, 255, 255]


def test_exif_orientation():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255  # white above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    upright = decode(encoded(Image.fromarray(pixels), "JPEG", exif=exif), 16)
    assert upright[:, :, :4].mean() < 20
    assert upright[:, :, -4:].mean() > 235


def test_centre_square_and_crop():
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 200
    assert (decode(encoded(Image.fromarray(pixels)), 10) == 200).all()
    pixels[3:7, 13:17] = 50
    assert (decode(encoded(Image.fromarray(pixels)), 4, crop=4) == 50).all()
    assert (decode(pixels[:, :, None], 4, crop=4) == 50).all()


def test_crop_larger_than_the_image():
    with pytest.raises(DataError, match="20x30, smaller than the crop of 21"):
        decode(encoded(flat("L", 0)), 8, crop=21)


def test_shrinking_is_antialiased():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    assert abs(decode(checks.astype(np.uint8), 8).astype(int) - 127).max() <= 2


def test_large_jpegs_are_decoded_at_a_fraction_to_the_same_picture():
    y, x = np.mgrid[:600, :800]
    photo = Image.fromarray(np.stack([x % 256, y % 256, (x + y) % 256], -1).astype(np.uint8)).resize((1600, 1200))
    small = decode(encoded(photo, "JPEG", quality=95), 32)
    reference = decode(encoded(photo, "PNG"), 32)
    assert abs(small.astype(int) - reference).mean() < 3


def test_mpo_and_first_frame_of_gif():
    frames = [flat("L", 10), flat("L", 250)]
    assert decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), 4)[0, 0, 0] == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, this is text", "is not an image"),
        (encoded(Image.effect_noise((200, 200), 50), "JPEG")[:3000], "cannot be decoded"),
        (encoded(Image.effect_noise((200, 200), 50))[:5000], "cannot be decoded"),
    ],
)
def test_bad_images(content, message):
    with pytest.raises(BadImageError, match=message):
        decode(content, 16)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of some damage before it raises, or reads on
def test_damaged_bytes_never_escape_as_other_errors():
    rng = np.random.default_rng(0)
    originals = [
        encoded(Image.effect_noise((40, 40), 50), format) for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP")
    ]
    for original in originals:
        for _ in range(100):
            content = bytearray(original)
            for position in rng.integers(0, len(content), 8):
                content[position] = rng.integers(256)
            with contextlib.suppress(BadImageError):
                assert decode(bytes(content), 8).shape[1:] == (8, 8)


def test_shorter_side():
    assert shorter_side(encoded(flat("L", 0))) == 20
    with pytest.raises(BadImageError):
        shorter_side(b"x")


def tiff(stored, bits, photometric):
    """A grey TIFF without compression."""
    height, width = stored.shape
    data = stored.astype("<u2" if bits > 8 else "u1").tobytes()
    entries = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 122)]
    entries += [(277, 3, 1), (278, 4, height), (279, 4, len(data))]
    tags = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + tags + bytes(4) + data


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_zero_is_white_or_black_at_all_depths(bits, photometric):
    ramp = np.mgrid[0:32, 0:32][1] * 8
    stored = ramp * (257 if bits == 16 else 1)
    stored = (2**bits - 1 - stored) if photometric == 0 else stored
    assert np.array_equal(decode(tiff(stored, bits, photometric), 32)[0], ramp)


@pytest.mark.parametrize(("value", "message"), [(70_000, "beyond 16 bits"), (-1, "beyond 16 bits")])
def test_whole_numbers_beyond_16_bits(value, message):
    with pytest.raises(BadImageError, match=message):
        decode(encoded(flat("I", value), "TIFF"), 8)


def test_one_scaling_for_all_floats():
    image = encoded(flat("F", 0.5), "TIFF")
    assert decode(image, 8, scaling=Scaling(floats=255))[0, 0, 0] == 128
    assert decode(image, 8, scaling=Scaling(floats=1))[0, 0, 0] == 0


def test_zeros_and_ones_are_scaled_before_they_are_resized():
    checks = (np.indices((8, 8)).sum(0) % 2).astype(np.uint8)
    pixels = decode(checks, 4, scaling=Scaling(bytes=255))
    assert abs(pixels.astype(int) - 127).max() <= 3


def test_other_metadata_does_not_spoil_a_turned_picture():
    """A resolution that is a text, beside the orientation."""
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    tags = struct.pack("<HHIHH", 0x112, 3, 1, 6, 0) + struct.pack("<HHI4s", 0x11A, 2, 3, b"72\0\0")
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    upright = decode(encoded(Image.fromarray(pixels), "JPEG", exif=exif), 16)
    assert upright[:, :, :4].mean() < 20
    assert upright[:, :, -4:].mean() > 235


@pytest.mark.parametrize("error", [RuntimeError("Failed to decode frame 0"), AssertionError(), KeyError("x")])
def test_any_error_of_a_decoder_is_a_bad_image(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(BadImageError, match="cannot be decoded"):
        decode(b"x", 8)
    with pytest.raises(BadImageError, match="cannot be decoded"):
        shorter_side(b"x")
