"""From maps to instances: seeds, watershed, size filter, thresholds."""

from napari_volseg.instances.blockwise import segment_blocks
from napari_volseg.instances.fitting import FittedThresholds, fit_thresholds
from napari_volseg.instances.following import Follower
from napari_volseg.instances.seeds import find_seeds
from napari_volseg.instances.segmentation import segment
from napari_volseg.instances.storing import (
    flood_memory,
    forget_blocks,
    segment_stored,
)
from napari_volseg.instances.watershed import watershed
from napari_volseg.instances.written import BlockwiseResult

__all__ = [
    "BlockwiseResult",
    "FittedThresholds",
    "Follower",
    "find_seeds",
    "fit_thresholds",
    "flood_memory",
    "forget_blocks",
    "segment",
    "segment_blocks",
    "segment_stored",
    "watershed",
]
