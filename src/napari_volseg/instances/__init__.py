"""From maps to instances: seeds, watershed, size filter, thresholds."""

from napari_volseg.instances.seeds import find_seeds
from napari_volseg.instances.segmentation import segment
from napari_volseg.instances.watershed import watershed

__all__ = ["find_seeds", "segment", "watershed"]
