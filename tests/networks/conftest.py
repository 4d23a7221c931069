"""What the tests of networks share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from network_cases import NETWORKS, make_model
from torch import nn

from napari_volseg.config import ModelConfig
from napari_volseg.networks import Pyramid, build_network, plan_pyramid

Build = Callable[..., tuple[nn.Module, Pyramid]]


@pytest.fixture(params=list(NETWORKS))
def model(request: pytest.FixtureRequest) -> ModelConfig:
    """Return the settings of every network in turn."""
    return make_model(request.param)


@pytest.fixture
def build() -> Build:
    """Return a function that builds a network for a patch, with seeded weights."""

    def _build(
        model: ModelConfig,
        patch: tuple[int, int, int] = (16, 16, 16),
        voxel_size: tuple[float, float, float] = (1.0, 1.0, 1.0),
        in_channels: int = 1,
    ) -> tuple[nn.Module, Pyramid]:
        torch.manual_seed(0)
        pyramid = plan_pyramid(model, voxel_size, patch)
        return build_network(model, in_channels, pyramid), pyramid

    return _build
