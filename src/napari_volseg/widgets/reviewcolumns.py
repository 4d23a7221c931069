"""The columns of the table of a review."""

from __future__ import annotations

from typing import Any

import numpy as np

from napari_volseg.widgets.instancetable import Column

__all__ = ["COLUMNS"]


def _share(value: Any) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


COLUMNS = (
    Column("index", "Id", "Id of the instance in the labels layer", width=48),
    Column("doubt", "Doubt", "How unlike the others it is, 0 to 1", _share, 50),
    Column("status", "Status", "What you said of it", width=74),
    Column("voxels", "Voxels", "Its size", lambda v: f"{int(v):,}", 70),
    Column("mask_mean", "Mask", "Mean mask inside it, 0 to 1", _share, 48),
    Column("boundary_inside", "Boundary", "Mean boundary inside it", _share, 66),
    Column(
        "shape_outlier",
        "Shape",
        "How unusual its size and roughness are, in standard deviations",
        lambda v: f"{v:.1f}",
        50,
    ),
    Column(
        "touches_border",
        "Border",
        "Touches a face of the volume",
        lambda v: "yes" if v else "",
        54,
    ),
    Column("z", "z", "Middle, in voxels", lambda v: f"{v:.0f}", 44),
    Column("y", "y", "Middle, in voxels", lambda v: f"{v:.0f}", 44),
    Column("x", "x", "Middle, in voxels", lambda v: f"{v:.0f}", 44),
)
