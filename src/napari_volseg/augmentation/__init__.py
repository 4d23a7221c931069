"""Random changes of a training patch: image, targets and their validity together.

Every change draws from the generator given, so a patch is determined by its seed
alone. A change whose probability is 0 draws nothing.
"""

from napari_volseg.augmentation.chain import augment
from napari_volseg.augmentation.deformation import (
    Deformation,
    draw_deformation,
    is_square_in_plane,
)
from napari_volseg.augmentation.patch import Patch
from napari_volseg.augmentation.spatial import turnable_planes

__all__ = [
    "Deformation",
    "Patch",
    "augment",
    "draw_deformation",
    "is_square_in_plane",
    "turnable_planes",
]
