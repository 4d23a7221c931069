"""What the tests of the losses share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from napari_volseg.checkpoint import model_metadata, save_model
from napari_volseg.config import LossConfig, ModelConfig, build_config
from napari_volseg.losses import MapLoss, build_loss, load_features
from napari_volseg.networks import build_network, plan_pyramid


@pytest.fixture(scope="session")
def seeing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small model with random weights."""
    config = build_config({"model": {"filters": [4, 6]}})
    pyramid = plan_pyramid(config.model, (1.0, 1.0, 1.0), (8, 16, 16))
    torch.manual_seed(0)
    network = build_network(config.model, 2, pyramid)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    metadata = model_metadata(config, pyramid, 2, (1, 1, 1), (8, 16, 16), 0, {})
    save_model(path, network.state_dict(), metadata)
    return path


@pytest.fixture
def make_loss(seeing_model: Path) -> Callable[..., MapLoss]:
    """Return a factory of losses; `terms` are for all channels."""

    def make(
        terms: dict[str, float] | None = None, surface: float = 0.0, **options: Any
    ) -> MapLoss:
        model = {
            k: options.pop(k) for k in ("loss_weights", "loss_balance") if k in options
        }
        if terms is not None:
            options |= {"mask": terms, "boundary": terms, "distance": terms}
        loss = LossConfig(**options, perceptual_model=str(seeing_model))
        features = load_features(seeing_model) if loss.uses("perceptual") else None
        return build_loss(
            ModelConfig(loss=loss, **model), surface=surface, features=features
        )

    return make


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, targets and where these are valid, of two random patches."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2, 3, 5, 16, 18), generator=generator)
    targets = torch.rand((2, 3, 5, 16, 18), generator=generator)
    targets[:, :2] = (targets[:, :2] > 0.7).float()
    valid = torch.rand((2, 3, 5, 16, 18), generator=generator) > 0.3
    return logits, targets, valid
