"""Labels to what a network learns: mask, boundary and distance."""

from napari_volseg.targets.distance import DistanceKind, encode_depth
from napari_volseg.targets.make import (
    Targets,
    make_targets,
    surface_of,
    targets_reach,
)

__all__ = [
    "DistanceKind",
    "Targets",
    "encode_depth",
    "make_targets",
    "surface_of",
    "targets_reach",
]
