"""The files of a review, written as it goes on, so that a crash loses nothing."""

from __future__ import annotations

import json
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.io import atomic_path, write_json, writing
from napari_volseg.review.deltas import Edit
from napari_volseg.review.history import Marks, Step
from napari_volseg.review.statuses import STATUSES, Mark

__all__ = ["ReviewFolder", "Saved", "StepFile", "fingerprint"]

_VERSION = 2
_REVIEW = "review.json"
_LOCK = "review.lock"
_STROKES = "strokes"
_SLAB = 16 * 2**20
_DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class StepFile:
    """A step as the file lists it."""

    number: int
    kind: str
    ids: tuple[int, ...]
    marks_before: Marks
    marks_after: Marks
    step: Step | None = None
    """With its edit; None when only the file has that."""

    @classmethod
    def of(cls, step: Step, *, is_kept: bool = True) -> StepFile:
        """Return what the file lists of a step, with its edit or without."""
        edit, kept = step.edit, step if is_kept else None
        marks = step.marks_before, step.marks_after
        return cls(step.number, edit.kind, edit.ids, *marks, kept)


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """A review at one moment."""

    steps: Sequence[StepFile]
    """Everything that is done, in order."""
    marks: Mapping[int, Mark]
    strokes: NDArray[np.int64]
    """Flat indices of voxels that were painted with other tools."""
    values: NDArray[Any]
    """What they hold."""
    serial: int = 0
    """Later moments have larger numbers."""


def fingerprint(labels_ZYX: Any, dtype: str | None = None) -> str:
    """Return what tells labels from others: their shape and a checksum.

    Reads everything, in slabs, without holding the interpreter lock; call it in a
    thread.

    Parameters
    ----------
    dtype
        The type that the labels had before they were widened, if they were.
    """
    name = str(dtype or labels_ZYX.dtype)
    crc = zlib.crc32(repr((tuple(labels_ZYX.shape), name)).encode())
    depth = max(1, _SLAB // max(int(np.prod(labels_ZYX.shape[1:])), 1))
    for z in range(0, labels_ZYX.shape[0], depth):
        slab = np.ascontiguousarray(labels_ZYX[z : z + depth], dtype)
        crc = zlib.crc32(slab.data.cast("B"), crc)
    return f"{crc:08x}"


class ReviewFolder:
    """A folder with ``review.json`` and one file for each edit.

    Parameters
    ----------
    folder
        Where; made when something is saved.
    base
        The `fingerprint` of the labels before any edit.
    """

    def __init__(self, folder: Path, base: str) -> None:
        self.folder = folder
        self.base = base
        self._lock: FileLock | None = None
        self._turn = threading.Lock()
        self._newest = 0
        self._left: int | None = None
        """Checksum of the list that was read or written last; None for none."""
        self._written: set[int] = set()
        """Edits whose files are known to be theirs.

        A save that was cut short leaves files that no list names; a later edit may
        get the number of one.
        """

    def acquire(self) -> bool:
        """Keep others from saving here; return False when another does."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / _LOCK, timeout=0)
            try:
                lock.acquire()
            except Timeout:
                return False
        self._lock = lock
        return True

    def release(self) -> None:
        """Let others save here; safe to call again."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def is_as_left(self) -> bool:
        """Return whether nobody saved here since this read or wrote the review."""
        try:
            return _checksum(self.folder / _REVIEW) == self._left
        except OSError:
            return False

    def save(self, saved: Saved) -> None:
        """Write what is new: first edits, then the list that names them.

        Several threads may save; what is older than what was saved is left out.

        Raises
        ------
        DataError
            If the disk is full or the folder gone; what was saved before stays.
        """
        with self._turn:
            if saved.serial >= self._newest:
                self._save(saved)
                self._newest = saved.serial

    def _save(self, saved: Saved) -> None:
        with writing(self.folder):
            (self.folder / "edits").mkdir(parents=True, exist_ok=True)
        for entry in saved.steps:
            path = self._edit(entry.number)
            is_there = entry.number in self._written and path.exists()
            if entry.step is not None and entry.step.edit.patches and not is_there:
                _write_arrays(path, entry.step.edit.arrays())
                self._written.add(entry.number)
        strokes = self._save_strokes(saved)
        path = self.folder / _REVIEW
        write_json(
            path,
            {
                "format_version": _VERSION,
                "labels": self.base,
                "strokes": strokes,
                "statuses": _marks_tree(saved.marks),
                "steps": [
                    {
                        "number": entry.number,
                        "kind": entry.kind,
                        "ids": list(entry.ids),
                        "before": _marks_tree(entry.marks_before),
                        "after": _marks_tree(entry.marks_after),
                    }
                    for entry in saved.steps
                ],
            },
        )
        with writing(path):
            self._left = _checksum(path)
        self._sweep({entry.number for entry in saved.steps if entry.ids}, strokes)

    def _save_strokes(self, saved: Saved) -> str | None:
        """Write strokes under a new name, so that the old list keeps the old ones."""
        if not saved.strokes.size:
            return None
        numbers = [path.stem[8:] for path in self.folder.glob(f"{_STROKES}-*.npz")]
        newest = max((int(n) for n in numbers if n.isdigit()), default=0)
        name = f"{_STROKES}-{newest + 1:06}.npz"
        arrays = {"voxels": saved.strokes, "values": saved.values}
        _write_arrays(self.folder / name, arrays)
        return name

    def load(self) -> Saved | None:
        """Return what was saved, None when nothing was.

        Raises
        ------
        DataError
            If it belongs to other labels or is damaged.
        """
        path = self.folder / _REVIEW
        if not path.exists():
            return None
        try:
            text = path.read_bytes()
            tree = json.loads(text.decode("utf-8"))
            if tree["format_version"] > _VERSION:
                raise DataError(
                    f"{path} was made by a newer version: update napari-volseg"
                )
            if tree["labels"] != self.base:
                raise DataError(
                    f"{path} is the review of other instances: move it away to start "
                    "a new one"
                )
            steps = [self._read_step(fields) for fields in tree["steps"]]
            strokes = np.zeros(0, np.int64), np.zeros(0, np.int64)
            # The first version of the format had one name for all strokes.
            old_name = f"{_STROKES}.npz" if tree.get("has_strokes") else None
            if name := tree.get("strokes", old_name):
                arrays = _read_arrays(self.folder / Path(name).name)
                strokes = arrays["voxels"].astype(np.int64), arrays["values"]
                if strokes[0].shape != strokes[1].shape:
                    raise ValueError("strokes")
            marks = {k: v for k, v in _read_marks(tree["statuses"]).items() if v}
            self._written = {entry.number for entry in steps}
            self._left = zlib.crc32(text)
            return Saved(steps, marks, *strokes)
        except (*_DAMAGE, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"the review in {self.folder} is damaged ({error}): move the folder "
                "away to start a new one"
            ) from error

    def read_edit(self, entry: StepFile) -> Edit:
        """Return the edit of a step, from memory or from its file."""
        if entry.step is not None:
            return entry.step.edit
        # A status has none: a file of its number was left by a save that was cut short.
        if not entry.ids:
            return Edit(entry.kind, (), ())
        path = self._edit(entry.number)
        arrays = _read_arrays(path) if path.exists() else {}
        return Edit.from_arrays(entry.kind, entry.ids, arrays)

    def _read_step(self, fields: Mapping[str, Any]) -> StepFile:
        number, kind = int(fields["number"]), str(fields["kind"])
        ids = tuple(int(i) for i in fields["ids"])
        before, after = (_read_marks(fields[key]) for key in ("before", "after"))
        entry = StepFile(number, kind, ids, before, after)
        edit = self.read_edit(entry)
        if ids and not edit.patches:
            raise ValueError(f"the edit {number} is missing")
        step = Step(number, edit, before, after)
        return StepFile(number, kind, ids, before, after, step)

    def _edit(self, number: int) -> Path:
        return self.folder / "edits" / f"{number:06}.npz"

    def _sweep(self, numbers: set[int], strokes: str | None) -> None:
        """Remove edits that were taken back for good, older strokes, and leftovers."""
        for path in self.folder.rglob(".volseg-*"):  # of saves that were killed
            path.unlink(missing_ok=True)
        for path in (self.folder / "edits").glob("[0-9]*.npz"):
            if path.stem.isdigit() and int(path.stem) not in numbers:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(f"{_STROKES}*.npz"):
            if path.name != strokes:
                path.unlink(missing_ok=True)


def _checksum(path: Path) -> int | None:
    return zlib.crc32(path.read_bytes()) if path.exists() else None


def _write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    # Opened here, because numpy does not close what it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _marks_tree(marks: Marks) -> dict[str, list[str] | None]:
    return {
        str(label): None if m is None else [m.status, m.author, m.time]
        for label, m in marks.items()
    }


def _read_marks(tree: Mapping[str, Any]) -> dict[int, Mark | None]:
    marks: dict[int, Mark | None] = {}
    for label, fields in tree.items():
        if fields is None:
            marks[int(label)] = None
            continue
        status, author, time = fields
        if status not in STATUSES:
            raise ValueError(f"unknown status {status}")
        marks[int(label)] = Mark(status, str(author), str(time))
    return marks
