"""The generated volumes that are measured with."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_volseg.sample_data import make_sample
from napari_volseg.volume import LabelledVolume

__all__ = ["noisy_maps", "sample"]


@lru_cache(maxsize=1)
def sample() -> LabelledVolume:
    """Return a generated volume with its labels."""
    return make_sample()


def noisy_maps(targets_CZYX: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return maps as a network makes them: too low, blurred and noisy."""
    rng = np.random.default_rng(0)
    maps = [
        share * ndimage.gaussian_filter(channel.astype(np.float32), (0.3, 1.2, 1.2))
        for channel, share in zip(targets_CZYX, (0.9, 0.8, 0.7), strict=True)
    ]
    noisy = np.stack(maps) + rng.normal(0, 6, targets_CZYX.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
