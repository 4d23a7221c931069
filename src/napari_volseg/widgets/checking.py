"""Check an annotation, and mend a copy of it, in a process of its own.

Everything here waits for that process or writes files: call it in a worker thread.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io import read_labels
from napari_volseg.widgets.helper import ask
from napari_volseg.widgets.snapshots import PairSnapshot

__all__ = ["Checked", "check", "mend"]

_EXIT_CODES = (0, 1)
_LABELS = "labels.npy"


@dataclass(frozen=True)
class Checked:
    """What a check found, and the files it looked at."""

    folder: Path
    arguments: tuple[str, ...]
    findings: list[dict[str, Any]]
    """As `annotation_check.Finding`, the most serious first."""
    summary: str

    def remove(self) -> None:
        """Delete the files; nothing can be mended any more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check(snapshot: PairSnapshot, is_cancelled: Callable[[], bool]) -> Checked:
    """Check a pair of layers as they were captured.

    Raises
    ------
    DataError
        If they cannot be checked.
    Cancelled
        If `is_cancelled` said so.
    """
    folder = Path(tempfile.mkdtemp(prefix="volseg-check-"))
    try:
        arguments = _write(snapshot, folder)
        answer = ask([*arguments, "--all"], is_cancelled, good=_EXIT_CODES)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    summary = str(answer["summary"])
    return Checked(folder, arguments, answer["findings"], summary)


def mend(
    checked: Checked,
    labels_ZYX: Any,
    rows: Sequence[int],
    is_cancelled: Callable[[], bool],
) -> tuple[NDArray[Any], int]:
    """Return labels in which findings are mended, and how many were.

    Parameters
    ----------
    labels_ZYX
        The labels as they are now.
    rows
        Which of ``checked.findings`` to mend.

    Raises
    ------
    DataError
        If the labels are not those that were checked: napari does not tell of an undo.
    """
    if not np.array_equal(np.load(checked.folder / _LABELS, mmap_mode="r"), labels_ZYX):
        raise DataError("the labels changed since the check: press Check again")
    out = checked.folder / "mended.h5"
    out.unlink(missing_ok=True)
    chosen = ",".join(map(str, rows))
    arguments = [*checked.arguments, f"--rows={chosen}", f"--fix={out}"]
    answer = ask(arguments, is_cancelled, good=_EXIT_CODES)
    return read_labels(f"{out}:labels"), int(answer["n_fixed"])


def _write(snapshot: PairSnapshot, folder: Path) -> tuple[str, ...]:
    """Write what the helper process reads; return its command."""
    labels = folder / _LABELS
    np.save(labels, np.ascontiguousarray(snapshot.labels))
    image = snapshot.source
    if image is None:
        path = folder / "image.npy"
        np.save(path, np.ascontiguousarray(snapshot.image.data))
        image = str(path)
    rule = snapshot.annotated
    arguments = [
        "check",
        "--json",
        f"--image={image}",
        f"--label={labels}",
        f"--annotated={rule.rule}",
        f"--background-id={rule.background_id}",
    ]
    if snapshot.region is not None:
        mask = folder / "mask.npy"
        np.save(mask, snapshot.region.mask(snapshot.image.shape_ZYX, rule.all_slices))
        arguments.append(f"--mask={mask}")
    return tuple(arguments)
