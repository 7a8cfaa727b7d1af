"""A folder or file of images or tables."""

from evae.data.folders import image_folder
from evae.data.rows import Source
from evae.data.tables import parquet
from evae.errors import DataError


def local(data: str) -> Source | None:
    """Images or tables of a folder: of both, the kind that holds more images; the other is left out, and named."""
    images = image_folder(data)
    try:
        tables = parquet(data)
    except DataError:  # tables beside the images, of something else
        if images is None:
            raise
        tables = None
    if images is None or tables is None:
        return images or tables
    return tables if tables.count > images.count else images
