"""What every test shares."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest

from napari_volseg.config import Config, build_config
from napari_volseg.volume import LabelledVolume, Volume


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run tests that open windows first: they take longest."""
    items.sort(key=lambda item: item.get_closest_marker("gui") is None)


@pytest.fixture(autouse=True)
def _same_draws_in_any_order() -> None:
    """Seed torch, where a test or one before it has loaded it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a seeded generator."""
    return np.random.default_rng(0)


@pytest.fixture
def make_cells() -> Callable[..., LabelledVolume]:
    """Return a factory of small volumes with bright balls, labelled 1…n."""

    def make(
        shape: tuple[int, int, int] = (12, 40, 40), seed: int = 0, name: str = "cells"
    ) -> LabelledVolume:
        rng = np.random.default_rng(seed)
        labels_ZYX = np.zeros(shape, np.int32)
        grid = np.indices(shape)
        steps = [range(5, n - 4, 10) for n in shape]
        centres = [(z, y, x) for z in steps[0] for y in steps[1] for x in steps[2]]
        for i, centre in enumerate(centres, start=1):
            offset = grid - np.reshape(centre, (3, 1, 1, 1))
            labels_ZYX[(offset**2).sum(0) <= 16] = i
        noise = rng.normal(0, 10, shape)
        image = np.clip(60 + 120 * (labels_ZYX > 0) + noise, 0, 255).astype(np.uint8)
        return LabelledVolume(Volume(image, (40.0, 10.0, 10.0), name), labels_ZYX)

    return make


@pytest.fixture
def cells(make_cells: Callable[..., LabelledVolume]) -> LabelledVolume:
    """Return one small labelled volume."""
    return make_cells()


@pytest.fixture
def tiny_config() -> Config:
    """Return a configuration that trains in a second: 4 steps of 2 patches."""
    return build_config(
        {
            "experiment_name": "tiny",
            "data": {"patch_size": [8, 16, 16], "iter_num_per_epoch": 4},
            "model": {"filters": [4, 8]},
            "optimization": {"max_epochs": 2, "precision": "32"},
            "system": {
                "device": "cpu",
                "training": {"batch_size": 2, "num_workers": 0},
            },
            "monitor": {"tensorboard": False},
        }
    )
