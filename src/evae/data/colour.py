"""Colours as a viewer shows them: embedded ICC profiles are converted to sRGB."""

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

_SAME = 2  # of 255, the largest difference between variants of the sRGB profile
_STEPS = 9  # colours along each axis by which a profile is compared with sRGB

Conversion = Callable[[Image.Image], Image.Image]


def to_srgb(image: Image.Image) -> Conversion | None:
    """What makes sRGB of an image's pixels, or of a strip of it; None where they are sRGB or no profile says otherwise.

    Profiles of RGB, grey and CMYK images are followed, by the perceptual intent; images stay grey, and keep their
    alpha. A profile that is broken, or of another space than the image, is ignored, as viewers do.
    """
    profile = image.info.get("icc_profile")
    return _conversion(profile, image.mode) if isinstance(profile, bytes) and profile else None


@lru_cache(maxsize=32)  # the images of a data set share few profiles
def _conversion(profile: bytes, mode: str) -> Conversion | None:
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        if space == "GRAY" and mode in ("L", "LA"):
            return _of_grey(opened)
        if space == "CMYK" and mode == "CMYK":
            return _transform(opened, "CMYK", "RGB")
        if space == "RGB" and mode in ("RGB", "RGBA", "P", "PA"):
            return None if _is_srgb(opened) else _of_colour(opened)
    except Exception:  # ImageCms raises errors of many kinds, and may be missing in Pillow
        return None
    return None


def _of_colour(profile: ImageCms.ImageCmsProfile) -> Conversion:
    rgb, rgba = _transform(profile, "RGB", "RGB"), _transform(profile, "RGBA", "RGBA")

    def convert(image: Image.Image) -> Image.Image:
        if image.has_transparency_data:
            return rgba(image.convert("RGBA"))
        return rgb(image.convert("RGB"))

    return convert


def _of_grey(profile: ImageCms.ImageCmsProfile) -> Conversion | None:
    """By a table of the 256 levels."""
    levels = np.arange(256, dtype=np.uint8)
    table = np.asarray(_transform(profile, "L", "RGB")(Image.fromarray(levels[None])))[0, :, 1]
    if _differ_little(table, levels):
        return None
    alpha_too = [*table.tolist(), *levels.tolist()]
    return lambda image: image.point(alpha_too[: 256 * len(image.getbands())])


def _transform(profile: ImageCms.ImageCmsProfile, source: str, target: str) -> Conversion:
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), source, target).apply


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    values = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(values, values, values, indexing="ij"), -1).reshape(1, -1, 3)
    return _differ_little(np.asarray(_transform(profile, "RGB", "RGB")(Image.fromarray(colours))), colours)


def _differ_little(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> bool:
    return bool(np.abs(a.astype(int) - b).max() <= _SAME)
