"""How much a network shrinks the volume from level to level, and its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from napari_volseg.config import ModelConfig
from napari_volseg.geometry import Size

__all__ = ["Pyramid", "plan_pyramid"]

_SMALLEST_EDGE = 4
"""Feature maps with a shorter edge are not shrunk along it."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The geometry of a U-shaped network."""

    factors: tuple[Size, ...]
    """Downsampling (z, y, x) from each level to the next; one less than levels."""
    kernels: tuple[Size, ...]
    """Convolution kernel (z, y, x) of each level."""
    binning: Size = (1, 1, 1)
    """Voxels (z, y, x) that are averaged into one of the finest level."""

    @property
    def multiple(self) -> Size:
        """What each edge of the input must be a multiple of."""
        shrinking = (self.binning, *self.factors)
        z, y, x = (prod(f[axis] for f in shrinking) for axis in range(3))
        return z, y, x


def plan_pyramid(
    model: ModelConfig, voxel_size: Sequence[float], patch_size: Sequence[int]
) -> Pyramid:
    """Choose downsampling and kernels so that deeper voxels become cubic.

    An axis whose voxels are at least twice as long as the shortest is neither
    shrunk nor convolved along until the others have caught up, after nnU-Net
    (Isensee et al. 2021). Factors and kernels given in `model` win.
    """
    edge = [v * b for v, b in zip(voxel_size, model.binning, strict=True)]
    length = [max(1, n // b) for n, b in zip(patch_size, model.binning, strict=True)]
    kernel = [1, 1, 1]
    factors: list[Size] = []
    kernels: list[Size] = []
    for level in range(model.depth):
        can_shrink = [n >= 2 * _SMALLEST_EDGE for n in length]
        shortest = min(
            (e for e, can in zip(edge, can_shrink, strict=True) if can),
            default=max(edge),
        )
        near = [e < 2 * shortest for e in edge]
        kernel = [
            3 if k == 3 or (close and n > 1) else 1
            for k, close, n in zip(kernel, near, length, strict=True)
        ]
        kernels.append((kernel[0], kernel[1], kernel[2]))
        z, y, x = (
            2 if close and can else 1
            for close, can in zip(near, can_shrink, strict=True)
        )
        factor = (z, y, x)
        if model.down_factors is not None:
            factor = (*model.down_factors, (1, 1, 1))[level]
        edge = [e * f for e, f in zip(edge, factor, strict=True)]
        length = [max(1, n // f) for n, f in zip(length, factor, strict=True)]
        factors.append(factor)
    return Pyramid(
        tuple(factors[:-1]), model.kernel_sizes or tuple(kernels), model.binning
    )
