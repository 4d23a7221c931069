"""Seeded patches for training.

A patch is a function of (seed, step, place in the batch) and of nothing else:
threads, resumed runs, the cache and the order of preparation cannot change it.
"""

from napari_volseg.sampling.caching import CachePlan, plan_cache
from napari_volseg.sampling.changes import (
    Changes,
    Focus,
    find_changes,
    find_focus,
    ids_that_count,
)
from napari_volseg.sampling.loading import batches
from napari_volseg.sampling.prepared import PreparedVolume, prepare_volume
from napari_volseg.sampling.source import Batch, PatchSource

__all__ = [
    "Batch",
    "CachePlan",
    "Changes",
    "Focus",
    "PatchSource",
    "PreparedVolume",
    "batches",
    "find_changes",
    "find_focus",
    "ids_that_count",
    "plan_cache",
    "prepare_volume",
]
