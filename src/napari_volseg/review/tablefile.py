"""The instance table as a file."""

from __future__ import annotations

import csv
import io as text_io
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.io import write_text

__all__ = ["write_table"]


def write_table(
    path: str | os.PathLike[str], table: Mapping[str, NDArray[Any]]
) -> None:
    """Write the columns as CSV with a header, whole or not at all.

    Numbers have up to six digits, truth values are 0 and 1; what is unknown (NaN) is
    empty.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    text = text_io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(
        zip(*([_written(v) for v in column] for column in table.values()), strict=True)
    )
    write_text(path, text.getvalue())


def _written(value: Any) -> str:
    if isinstance(value, np.floating):
        return "" if np.isnan(value) else f"{value:.6g}"
    return str(value) if isinstance(value, str) else str(int(value))
