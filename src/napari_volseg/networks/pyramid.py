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

    @property
    def multiple(self) -> Size:
        """What each edge of the input must be a multiple of."""
        z, y, x = (prod(f[axis] for f in self.factors) for axis in range(3))
        return z, y, x


def plan_pyramid(
    model: ModelConfig, voxel_size: Sequence[float], patch_size: Sequence[int]
) -> Pyramid:
    """Choose downsampling and kernels so that deeper voxels become cubic.

    An axis whose voxels are at least twice as long as the shortest is neither
    shrunk nor convolved along until the others have caught up, after nnU-Net
    (Isensee et al. 2021). Factors and kernels given in `model` win.
    """
    edge = [float(v) for v in voxel_size]
    length = list(patch_size)
    factors: list[Size] = []
    kernels: list[Size] = []
    for level in range(len(model.filters)):
        near = [e < 2 * min(edge) for e in edge]
        z, y, x = (3 if near[a] and length[a] > 1 else 1 for a in range(3))
        kernels.append((z, y, x))
        if model.down_factors is not None:
            given = (*model.down_factors, (1, 1, 1))[level]
        else:
            given = (
                2 if near[0] and length[0] >= 2 * _SMALLEST_EDGE else 1,
                2 if near[1] and length[1] >= 2 * _SMALLEST_EDGE else 1,
                2 if near[2] and length[2] >= 2 * _SMALLEST_EDGE else 1,
            )
        edge = [e * f for e, f in zip(edge, given, strict=True)]
        length = [max(1, n // f) for n, f in zip(length, given, strict=True)]
        factors.append(given)
    return Pyramid(tuple(factors[:-1]), model.kernel_sizes or tuple(kernels))
