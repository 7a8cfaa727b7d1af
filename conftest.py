"""Names that the examples in docstrings use without importing them."""

import pytest
import torch
from torch.distributions import Normal, Uniform

from evae.distributions import Epanechnikov, KernelPosterior, SphericalEpanechnikov


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    names = {"torch": torch, "Normal": Normal, "Uniform": Uniform}
    names |= {cls.__name__: cls for cls in (Epanechnikov, KernelPosterior, SphericalEpanechnikov)}
    doctest_namespace.update(names)
