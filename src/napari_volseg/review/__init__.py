"""Review of instances: what to look at, edits with an exact inverse, statuses.

Numpy only, except for what `server` does in a process of its own and for
`instance_table`, which are imported when they are used: their libraries hold
Python's interpreter lock and stay out of the process of napari.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_volseg.review.client import Helper, HelperGone
from napari_volseg.review.deltas import Edit, Patch, difference
from napari_volseg.review.doubt import DOUBTFUL, add_doubt
from napari_volseg.review.edits import delete, merge, place_pieces, renumber
from napari_volseg.review.history import History, Step
from napari_volseg.review.rows import measure_instances
from napari_volseg.review.session import Review
from napari_volseg.review.statuses import STATUSES, Mark, Status
from napari_volseg.review.store import ReviewFolder, Saved, fingerprint
from napari_volseg.review.strokes import Stroke
from napari_volseg.review.tablefile import write_table

if TYPE_CHECKING:
    from napari_volseg.review.table import instance_table, table_of_blocks

__all__ = [
    "DOUBTFUL",
    "STATUSES",
    "Edit",
    "Helper",
    "HelperGone",
    "History",
    "Mark",
    "Patch",
    "Review",
    "ReviewFolder",
    "Saved",
    "Status",
    "Step",
    "Stroke",
    "add_doubt",
    "delete",
    "difference",
    "fingerprint",
    "instance_table",
    "measure_instances",
    "merge",
    "place_pieces",
    "renumber",
    "table_of_blocks",
    "write_table",
]


def __getattr__(name: str) -> Any:
    """Import what needs numba and fastremap on use."""
    if name in ("instance_table", "table_of_blocks"):
        from napari_volseg.review import table

        return getattr(table, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
