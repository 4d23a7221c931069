"""Which parts of the annotation are held out to validate on.

The labels in a held-out box and in a guard gap around it are never learnt from; see
``docs/decisions``.
"""

from napari_volseg.splitting.boxes import guard_gap
from napari_volseg.splitting.folds import hold_out_fold
from napari_volseg.splitting.holdout import choose_validation_boxes

__all__ = [
    "choose_validation_boxes",
    "guard_gap",
    "hold_out_fold",
]
