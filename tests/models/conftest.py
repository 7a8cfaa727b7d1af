"""Families and images that several files try."""

import pytest
import torch

from tests.models.families import FAMILIES, SHAPE


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return FAMILIES[request.param]


@pytest.fixture
def images():
    return torch.rand(6, *SHAPE)
