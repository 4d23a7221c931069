"""A review that goes on: labels, their table, what was done and said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review.deltas import Edit
from napari_volseg.review.doubt import add_doubt
from napari_volseg.review.edits import delete, merge
from napari_volseg.review.history import History, Marks, Step
from napari_volseg.review.rows import box_of_row
from napari_volseg.review.statuses import Mark, Status, mark
from napari_volseg.review.store import Saved, StepFile
from napari_volseg.review.strokes import Stroke, marked_by
from napari_volseg.volume import VoxelSize

__all__ = ["Review"]

_KEPT_BYTES = 512 * 2**20
"""Memory for edits that can be taken back."""

Table = dict[str, NDArray[Any]]


class Review:
    """Edits of labels in place, with undo, statuses and the table of instances.

    Rows of the table are not measured here: after a change, `pending` says which
    instances to measure and where. Who measures calls `take_pending`, then `take_rows`
    with the new rows, or `put_back` when there are none.

    Parameters
    ----------
    labels_ZYX
        The labels to edit, in memory.
    table
        The columns of `instance_table`.
    voxel_size
        Edge lengths (z, y, x) in nm.
    """

    def __init__(
        self,
        labels_ZYX: NDArray[np.integer[Any]],
        table: Mapping[str, NDArray[Any]],
        voxel_size: VoxelSize,
    ) -> None:
        self.labels_ZYX = labels_ZYX
        self.table: Table = dict(table)
        self.voxel_size = voxel_size
        self.history = History()
        self.marks: dict[int, Mark] = {}
        self._gone: dict[int, Mark] = {}
        """Of instances that were painted over; a stroke may be taken back."""
        self.pending: dict[int, Box] = {}
        """Instances whose rows are out of date, each with a box that holds it."""
        self.measuring: dict[int, Box] = {}
        """Those of which somebody measures the rows now; edits may go on meanwhile."""
        self._archived: list[StepFile] = []
        self._strokes: list[NDArray[np.int64]] = []
        self._noted: WeakSet[Stroke] = WeakSet()
        """Those that somebody may still take back or do again."""
        self._n_steps = self._n_snapshots = 0
        self._top = int(self.table["index"].max(initial=0))

    @property
    def first_free(self) -> int:
        """The first id that no instance ever had here."""
        return self._top + 1

    def row_of(self, label: int) -> int | None:
        """Return the row of an instance in the table."""
        index = self.table["index"]
        row = int(np.searchsorted(index, label))
        return row if row < len(index) and index[row] == label else None

    def box(self, label: int) -> Box:
        """Return a box that holds an instance.

        Raises
        ------
        DataError
            If there is no such instance.
        """
        boxes = self._known(label)
        if not boxes:
            raise DataError(f"there is no instance {label} any more: choose another")
        return Box.around(boxes)

    def boxes(self, ids: Iterable[int]) -> dict[int, Box]:
        """Return a box for each of several instances."""
        return {label: self.box(label) for label in ids}

    def box_around(self, ids: Iterable[int]) -> Box:
        """Return a box that holds several instances."""
        return Box.around(list(self.boxes(ids).values()))

    def ids_within(self, box: Box) -> list[int]:
        """Return the instances that lie in a box as a whole."""
        starts = np.stack([self.table[f"{axis}_start"] for axis in "zyx"], axis=1)
        stops = np.stack([self.table[f"{axis}_stop"] for axis in "zyx"], axis=1)
        is_near = (starts < box.stop).all(axis=1) & (stops > box.start).all(axis=1)
        near = {int(i) for i in self.table["index"][is_near]}
        near |= self.pending.keys() | self.measuring.keys()
        return sorted(i for i in near if box.contains(self.box(i)))

    def status(self, label: int) -> Status:
        """Return what was said of an instance."""
        found = self.marks.get(label)
        return "todo" if found is None else found.status

    def statuses(self) -> NDArray[Any]:
        """Return the status of every row of the table."""
        index = self.table["index"]
        column = np.full(len(index), "todo", "<U9")
        marks = self.marks
        ids = np.fromiter(marks, np.int64, len(marks))
        is_there = np.isin(ids, index)
        names = np.array([m.status for m in marks.values()], column.dtype)
        column[np.searchsorted(index, ids[is_there])] = names[is_there]
        return column

    def merge(self, ids: Sequence[int]) -> Step:
        """Give instances the id of the largest of them.

        Raises
        ------
        DataError
            If there are fewer than two.
        """
        boxes = self.boxes(ids)
        into = max(ids, key=self._voxels, default=0)
        edit = merge(self.labels_ZYX, boxes, into)
        return self.do(edit, dict.fromkeys(ids) | {into: "corrected"})

    def delete(self, ids: Sequence[int]) -> Step:
        """Make instances background."""
        edit = delete(self.labels_ZYX, self.boxes(ids))
        return self.do(edit, dict.fromkeys(ids))

    def say(self, ids: Sequence[int], status: Status) -> Step:
        """Set the status of instances; this can be undone as well."""
        wanted = None if status == "todo" else status
        return self.do(Edit(status, (), ()), dict.fromkeys(ids, wanted))

    def do(self, edit: Edit, statuses: Mapping[int, Status | None]) -> Step:
        """Apply an edit and note statuses that change with it."""
        self._n_steps += 1
        before = {label: self.marks.get(label) for label in statuses}
        after = {
            label: None if status is None else mark(status)
            for label, status in statuses.items()
        }
        step = Step(self._n_steps, edit, before, after)
        edit.apply(self.labels_ZYX)
        self.history.push(step)
        for label, found in after.items():
            self._set_mark(label, found)
        self._outdate_all(edit)
        return step

    def undo(self) -> tuple[Step | None, int]:
        """Take back the last step; return it, and how many voxels stayed.

        A voxel that no longer holds what the step wrote was painted since, and
        stays as it is.
        """
        step = self.history.undo()
        if step is None:
            return None, 0
        n_left = step.edit.revert(self.labels_ZYX)
        self._put(step.marks_before, step.marks_after, step.number)
        self._outdate_all(step.edit)
        return step, n_left

    def redo(self) -> tuple[Step | None, int]:
        """Do again what was taken back last; return it, and how many voxels stayed."""
        step = self.history.redo()
        if step is None:
            return None, 0
        n_left = step.edit.apply(self.labels_ZYX)
        self._put(step.marks_after, step.marks_before, step.number)
        self._outdate_all(step.edit)
        return step, n_left

    def note_stroke(
        self,
        voxels_N: NDArray[np.int64],
        old: Any,
        new: Any,
        stroke: Stroke | None = None,
    ) -> Stroke:
        """Note what the user painted with other tools.

        Instances that were painted, or of which something was erased, count as
        corrected.

        Parameters
        ----------
        voxels_N
            Flat indices of the voxels.
        old, new
            Ids before and after, one for all or one for each voxel.
        stroke
            What was returned for another part of the same stroke; it is remembered
            for as long as the caller keeps it.
        """
        if stroke is None:
            stroke = Stroke(self._n_steps)
            self._noted.add(stroke)
        old_N, new_N = (np.broadcast_to(ids, voxels_N.shape) for ids in (old, new))
        self._note_voxels(voxels_N, old_N, new_N)
        for label in marked_by(old_N, new_N):
            self._set_mark(label, stroke.correct(label, self.marks.get(label)))
        return stroke

    def take_back(self, stroke: Stroke) -> None:
        """Put statuses back that a stroke changed, once its voxels are."""
        self._put(stroke.marks_before, stroke.marks_after, stroke.step)

    def do_again(self, stroke: Stroke) -> None:
        """Set statuses again that `take_back` put back."""
        self._put(stroke.marks_after, stroke.marks_before, stroke.step)

    def accepted(self) -> list[int]:
        """Return the accepted and corrected instances."""
        good = ("accepted", "corrected")
        return sorted(i for i, m in self.marks.items() if m.status in good)

    def steps(self) -> list[StepFile]:
        """Return the steps that were not taken back, in order."""
        return list(self.snapshot().steps)

    def painted(self) -> NDArray[np.int64]:
        """Return flat indices of all voxels that `note_stroke` was told of."""
        none = np.zeros(0, np.int64)
        strokes = np.unique(np.concatenate([none, *self._strokes]))
        self._strokes = [strokes]
        return strokes

    def note_changes(self, voxels_N: NDArray[np.int64], before_N: NDArray[Any]) -> bool:
        """Note which voxels no longer hold what they held; return whether any.

        Statuses stay: this is how strokes are noticed that were taken back.

        Parameters
        ----------
        voxels_N
            Flat indices of the voxels.
        before_N
            What `values` returned for them.
        """
        after_N = self.values(voxels_N)
        changed = after_N != before_N
        self._note_voxels(voxels_N[changed], before_N[changed], after_N[changed])
        return bool(changed.any())

    def values(self, voxels_N: NDArray[np.int64]) -> NDArray[Any]:
        """Return the ids at flat indices."""
        # Not by `reshape(-1)`, which is a copy of labels in Fortran's order.
        values: NDArray[Any] = self.labels_ZYX[
            np.unravel_index(voxels_N, self.labels_ZYX.shape)
        ]
        return values

    def take_pending(self) -> dict[int, Box]:
        """Return what to measure now; `take_rows` or `put_back` ends that."""
        self.put_back()
        self.measuring, self.pending = self.pending, {}
        return self.measuring

    def take_voxel_size(self, voxel_size: VoxelSize) -> None:
        """Take other edge lengths, by which every row is out of date."""
        self.voxel_size = voxel_size
        for label in self.table["index"].tolist():
            self._outdate(label)

    def put_back(self) -> None:
        """Count what is being measured as pending again; safe to call at any time."""
        measuring, self.measuring = self.measuring, {}
        for label, box in measuring.items():
            self._outdate(label, box)

    def take_rows(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Replace the rows of what was measured; instances without a row are gone."""
        keep = ~np.isin(self.table["index"], list(self.measuring))
        self.measuring = {}
        base = {k: v for k, v in self.table.items() if k in rows}
        joined = {k: np.concatenate([v[keep], rows[k]]) for k, v in base.items()}
        order = np.argsort(joined["index"], kind="stable")
        self.table = add_doubt({k: v[order] for k, v in joined.items()})
        for label in self.marks.keys() - self.pending.keys():
            if self.row_of(label) is None:
                self._gone[label] = self.marks.pop(label)

    def snapshot(self) -> Saved:
        """Return what a file keeps, as it is now."""
        steps = [StepFile.of(step) for step in self.history.done]
        strokes = self.painted()
        values = self.values(strokes)
        self._n_snapshots += 1
        marks = dict(self.marks)
        entries = [*self._archived, *steps]
        return Saved(entries, marks, strokes, values, self._n_snapshots)

    def restore(self, saved: Saved) -> None:
        """Do what a file says was done, on labels as they were at first."""
        for entry in saved.steps:
            if entry.step is None:
                self._archived.append(entry)
                continue
            entry.step.edit.apply(self.labels_ZYX)
            self.history.done.append(entry.step)
            self._outdate_all(entry.step.edit)
        if saved.strokes.size:
            places = np.unravel_index(saved.strokes, self.labels_ZYX.shape)
            old = self.labels_ZYX[places]
            self.labels_ZYX[places] = saved.values
            self._note_voxels(saved.strokes, old, saved.values)
        self.marks = dict(saved.marks)
        self._n_steps = max((s.number for s in saved.steps), default=0)

    def trim(self, saved: Saved) -> None:
        """Give memory back once a moment is saved; what is newer stays in memory."""
        newest = max((entry.number for entry in saved.steps), default=0)
        for step in self.history.trim(_KEPT_BYTES, newest):
            self._archived.append(StepFile.of(step, is_kept=False))

    def _put(self, wanted: Marks, expected: Marks, since: int) -> None:
        """Set statuses where nothing else changed them since some step.

        Where something did, it brings the wanted one back when it is taken back itself.
        """
        for label, found in wanted.items():
            before = expected.get(label)
            if self.marks.get(label, self._gone.get(label)) in (None, before):
                self._set_mark(label, found)
                continue
            self.history.replace_mark(label, before, found, since)
            for stroke in self._noted:
                marks = stroke.marks_before
                if stroke.step >= since and label in marks and marks[label] == before:
                    marks[label] = found

    def _set_mark(self, label: int, found: Mark | None) -> None:
        self._gone.pop(label, None)
        if found is None:
            self.marks.pop(label, None)
        else:
            self.marks[label] = found

    def _note_voxels(
        self, voxels_N: NDArray[np.int64], old_N: NDArray[Any], new_N: NDArray[Any]
    ) -> None:
        if not voxels_N.size:
            return
        self._strokes.append(voxels_N)
        places = np.unravel_index(voxels_N, self.labels_ZYX.shape)
        z, y, x = ((int(p.min()), int(p.max()) + 1) for p in places)
        box = Box((z[0], y[0], x[0]), (z[1], y[1], x[1]))
        for label in {int(i) for ids in (old_N, new_N) for i in np.unique(ids) if i}:
            self._outdate(label, box)

    def _outdate_all(self, edit: Edit) -> None:
        boxes = [patch.box for patch in edit.patches]
        for label in edit.ids:
            self._outdate(label, *boxes)

    def _outdate(self, label: int, *boxes: Box) -> None:
        if known := [*self._known(label), *boxes]:
            self.pending[label] = Box.around(known)
        self._top = max(self._top, label)
        if label in self._gone:
            self.marks[label] = self._gone.pop(label)

    def _known(self, label: int) -> list[Box]:
        """Return boxes that hold an instance between them; none when it is unknown."""
        row = self.row_of(label)
        boxes = [] if row is None else [box_of_row(self.table, row)]
        out_of_date = (self.measuring, self.pending)
        return boxes + [each[label] for each in out_of_date if label in each]

    def _voxels(self, label: int) -> int:
        row = self.row_of(label)
        return 0 if row is None else int(self.table["voxels"][row])
