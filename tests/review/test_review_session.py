"""A review keeps its table true and survives a crash."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import (
    Review,
    ReviewFolder,
    Stroke,
    fingerprint,
    instance_table,
    measure_instances,
)
from napari_volseg.sample_data import make_sample

VOXEL_SIZE = (30.0, 8.0, 8.0)


def make_labels() -> np.ndarray:
    return make_sample("cells", (10, 40, 40)).labels_ZYX.astype(np.uint32)


def start(labels: np.ndarray) -> Review:
    return Review(labels, instance_table(labels, None, VOXEL_SIZE), VOXEL_SIZE)


def measure(review: Review) -> None:
    pending = review.take_pending()
    rows = measure_instances(review.labels_ZYX, None, pending, VOXEL_SIZE)
    review.take_rows(rows)


def same_table(review: Review) -> None:
    expected = instance_table(review.labels_ZYX, None, VOXEL_SIZE)
    assert list(review.table) == list(expected)
    for name, column in expected.items():
        np.testing.assert_allclose(review.table[name], column, err_msg=name)


def paint(review: Review, place: tuple[slice, ...], value: int) -> Stroke:
    """Paint as napari does, and tell the review."""
    mask = np.zeros(review.labels_ZYX.shape, bool)
    mask[place] = True
    voxels = np.flatnonzero(mask)
    old = review.labels_ZYX[mask].copy()
    review.labels_ZYX[mask] = value
    return review.note_stroke(voxels, old, value)


def test_the_table_follows_edits_strokes_and_undo() -> None:
    review = start(make_labels())
    review.merge([1, 2])
    measure(review)
    same_table(review)
    review.delete([3])
    measure(review)
    same_table(review)
    paint(review, (slice(2, 4), slice(0, 9), slice(0, 9)), 5)
    measure(review)
    same_table(review)
    assert review.status(5) == "corrected"
    while review.history.done:
        review.undo()
    measure(review)
    same_table(review)
    assert 3 in review.table["index"]


@pytest.mark.parametrize("label", [1, 2])
def test_edits_while_rows_are_measured_reach_the_whole_instance(label: int) -> None:
    labels = np.zeros((4, 8, 20), np.uint32)
    labels[1:3, 2:6, 2:6] = 1
    labels[1:3, 2:6, 10:16] = 2
    review = start(labels)
    review.merge([1, 2])
    pending = review.take_pending()
    rows = measure_instances(review.labels_ZYX, None, pending, VOXEL_SIZE)
    paint(review, (slice(0, 1), slice(0, 2), slice(0, 2)), label)
    review.delete([1, 2])
    review.take_rows(rows)
    assert not review.labels_ZYX.any()
    assert review.box(2).contains(Box((1, 2, 2), (3, 6, 16)))
    measure(review)
    same_table(review)
    review.undo()
    measure(review)
    same_table(review)


def test_a_new_instance_is_known_while_it_is_measured() -> None:
    review = start(make_labels())
    new = review.first_free
    paint(review, (slice(2, 4), slice(0, 9), slice(0, 9)), new)
    review.take_pending()
    assert new in review.ids_within(Box.whole(review.labels_ZYX.shape))
    review.delete([new])
    assert not (review.labels_ZYX == new).any()


def test_rows_that_could_not_be_measured_are_still_out_of_date() -> None:
    review = start(make_labels())
    review.merge([1, 2])
    review.take_pending()
    review.delete([3])
    review.put_back()
    measure(review)
    same_table(review)


@pytest.mark.parametrize("order", ["C", "F"])
def test_strokes_that_are_taken_back_are_noticed(order: Any) -> None:
    review = start(np.array(make_labels(), order=order))
    unpainted = review.labels_ZYX.copy()
    paint(review, (slice(2, 4), slice(0, 9), slice(0, 9)), 5)
    measure(review)
    voxels = review.painted()
    before = review.values(voxels)
    assert not review.note_changes(voxels, before)
    review.labels_ZYX[:] = unpainted
    assert review.note_changes(voxels, before)
    measure(review)
    same_table(review)


CORNER = (slice(2, 4), slice(0, 9), slice(0, 9))


def test_a_stroke_taken_back_brings_statuses_back() -> None:
    review = start(make_labels())
    unpainted = review.labels_ZYX.copy()
    review.say([5], "rejected")
    stroke = paint(review, CORNER, 5)
    painted = review.labels_ZYX.copy()
    assert review.status(5) == "corrected"
    voxels = review.painted()
    for labels, status in ((unpainted, "rejected"), (painted, "corrected")):
        before = review.values(voxels)
        review.labels_ZYX[:] = labels
        assert review.note_changes(voxels, before)
        (review.take_back if status == "rejected" else review.do_again)(stroke)
        measure(review)
        assert review.status(5) == status
    assert review.accepted() == [5]


def test_a_stroke_taken_back_leaves_what_was_said_since() -> None:
    review = start(make_labels())
    stroke = paint(review, CORNER, 5)
    review.say([5], "rejected")
    review.take_back(stroke)
    assert review.status(5) == "rejected"
    review.undo()
    assert review.status(5) == "todo"


def test_undo_leaves_the_status_of_what_was_painted_since() -> None:
    review = start(make_labels())
    review.say([5], "accepted")
    stroke = paint(review, CORNER, 5)
    review.undo()
    assert review.status(5) == "corrected"
    review.redo()
    assert review.status(5) == "corrected"
    review.undo()
    review.take_back(stroke)
    assert review.status(5) == "todo"


def test_erasing_corrects_and_painting_over_others_does_not() -> None:
    review = start(make_labels())
    review.say([1, 2], "rejected")
    (z, y, x), stop = review.box(1).start, review.box(1).stop
    where = (slice(z, stop[0]), slice(y, stop[1]), slice(x, stop[2]))
    paint(review, where, 2)
    assert review.status(1) == "rejected"
    assert review.status(2) == "corrected"
    paint(review, (slice(z, z + 1), *where[1:]), 0)
    measure(review)
    assert review.status(2) == "corrected"


def test_an_instance_that_was_painted_over_comes_back_with_its_status() -> None:
    review = start(make_labels())
    unpainted = review.labels_ZYX.copy()
    review.say([1], "accepted")
    stroke = paint(review, (slice(None),) * 3, 0)
    voxels = review.painted()
    before = review.values(voxels)
    measure(review)
    assert review.accepted() == []
    review.labels_ZYX[:] = unpainted
    review.note_changes(voxels, before)
    review.take_back(stroke)
    measure(review)
    assert review.accepted() == [1]


def test_an_instance_under_another_comes_back_with_its_status() -> None:
    review = start(make_labels())
    review.say([1], "accepted")
    where = review.labels_ZYX == 1
    voxels, before = np.flatnonzero(where), review.labels_ZYX[where]
    review.labels_ZYX[where] = 2
    stroke = review.note_stroke(voxels, before, 2)
    measure(review)
    assert review.accepted() == [2]
    review.labels_ZYX[where] = 1
    review.note_changes(voxels, np.full(voxels.shape, 2))
    review.take_back(stroke)
    assert review.snapshot().marks.keys() == {1}
    measure(review)
    assert review.accepted() == [1]


def test_a_status_taken_back_while_its_instance_is_gone_stays_away() -> None:
    review = start(make_labels())
    review.say([1], "accepted")
    where = review.labels_ZYX == 1
    voxels = np.flatnonzero(where)
    review.labels_ZYX[where] = 0
    stroke = review.note_stroke(voxels, 1, 0)
    measure(review)
    review.undo()
    review.labels_ZYX[where] = 1
    review.note_changes(voxels, np.zeros(voxels.shape, np.uint32))
    review.take_back(stroke)
    measure(review)
    assert review.accepted() == []


def test_an_edit_of_what_is_gone_is_refused() -> None:
    review = start(make_labels())
    review.delete([1])
    measure(review)
    with pytest.raises(DataError, match="no instance 1 any more"):
        review.delete([1])


def test_a_new_session_goes_on_where_a_crash_left_off(tmp_path: Path) -> None:
    base = make_labels()
    key = fingerprint(base)
    review = start(base.copy())
    folder = ReviewFolder(tmp_path / "review", key)
    review.merge([1, 2])
    folder.save(review.snapshot())
    review.say([4], "accepted")
    review.delete([3])
    paint(review, (slice(2, 4), slice(0, 9), slice(0, 9)), 5)
    review.delete([4])
    review.undo()
    folder.save(review.snapshot())

    again = start(base.copy())
    saved = ReviewFolder(tmp_path / "review", key).load()
    assert saved is not None
    again.restore(saved)

    assert (again.labels_ZYX == review.labels_ZYX).all()
    assert again.marks == review.marks
    assert again.status(4) == "accepted"
    assert again.marks[4].author
    measure(again)
    same_table(again)
    # The steps of before the crash can still be taken back.
    for one in (again, review):
        while one.history.done:
            one.undo()
    assert (again.labels_ZYX == review.labels_ZYX).all()


def test_files_of_edits_taken_back_for_good_are_removed(tmp_path: Path) -> None:
    review = start(make_labels())
    folder = ReviewFolder(tmp_path, "key")
    review.delete([1])
    folder.save(review.snapshot())
    review.undo()
    review.delete([2])
    folder.save(review.snapshot())
    assert [path.name for path in (tmp_path / "edits").iterdir()] == ["000002.npz"]


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    review = start(make_labels())
    folder = ReviewFolder(tmp_path, fingerprint(review.labels_ZYX))
    review.delete([1])
    folder.save(review.snapshot())
    names = {path.name for path in tmp_path.rglob("*")}
    for place in (tmp_path, tmp_path / "edits"):
        (place / ".volseg-0123456789abcdef.npz").write_bytes(b"half")
    folder.save(review.snapshot())
    assert {path.name for path in tmp_path.rglob("*")} == names


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    review.delete([1])
    folder.save(review.snapshot())
    review.delete([2])

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("napari_volseg.io.atomic.os.replace", fail)
        with pytest.raises(DataError, match="cannot be written"):
            folder.save(review.snapshot())
    saved = folder.load()
    assert saved is not None
    assert [step.ids for step in saved.steps] == [(1,)]
    folder.save(review.snapshot())
    saved = folder.load()
    assert saved is not None
    assert [step.ids for step in saved.steps] == [(1,), (2,)]


@pytest.mark.parametrize(
    "later",
    [lambda review: review.delete([4]), lambda review: review.say([4], "accepted")],
)
@pytest.mark.parametrize("n_saved", [0, 1])
def test_an_edit_of_a_save_that_was_cut_short_is_no_later_one(
    tmp_path: Path, monkeypatch: Any, n_saved: int, later: Any
) -> None:
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    for label in range(1, 1 + n_saved):
        review.delete([label])
        folder.save(review.snapshot())
    review.delete([3])

    def fail(*args: object) -> None:
        raise DataError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("napari_volseg.review.store.write_json", fail)
        with pytest.raises(DataError, match="killed"):
            folder.save(review.snapshot())

    def go_on() -> tuple[Review, ReviewFolder]:
        review = start(base.copy())
        folder = ReviewFolder(tmp_path, fingerprint(base))
        saved = folder.load()
        if saved is not None:
            review.restore(saved)
        return review, folder

    second, folder = go_on()
    later(second)
    folder.save(second.snapshot())
    third, _ = go_on()
    assert (third.labels_ZYX == second.labels_ZYX).all()
    assert (third.labels_ZYX == 3).any()


def go_on(base: np.ndarray, path: Path) -> Review:
    review = start(base.copy())
    saved = ReviewFolder(path, fingerprint(base)).load()
    assert saved is not None
    review.restore(saved)
    return review


def test_strokes_of_a_save_that_was_cut_short_are_not_mixed_with_older_steps(
    tmp_path: Path, monkeypatch: Any
) -> None:
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    review.merge([1, 2])
    paint(review, CORNER, 5)
    folder.save(review.snapshot())
    first = review.labels_ZYX.copy()
    paint(review, CORNER, 0)
    review.delete([3])

    def fail(*args: object) -> None:
        raise DataError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("napari_volseg.review.store.write_json", fail)
        with pytest.raises(DataError, match="killed"):
            folder.save(review.snapshot())
    assert (go_on(base, tmp_path).labels_ZYX == first).all()
    folder.save(review.snapshot())
    assert (go_on(base, tmp_path).labels_ZYX == review.labels_ZYX).all()
    assert len(list(tmp_path.glob("strokes*.npz"))) == 1


def test_strokes_of_the_first_format_are_read(tmp_path: Path) -> None:
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    paint(review, CORNER, 5)
    folder.save(review.snapshot())
    path = tmp_path / "review.json"
    tree = json.loads(path.read_text())
    (tmp_path / tree.pop("strokes")).rename(tmp_path / "strokes.npz")
    path.write_text(json.dumps(tree | {"format_version": 1, "has_strokes": True}))
    assert (go_on(base, tmp_path).labels_ZYX == review.labels_ZYX).all()


def test_a_folder_knows_whether_somebody_else_saved(tmp_path: Path) -> None:
    base = make_labels()
    review = start(base.copy())
    folder, other = (ReviewFolder(tmp_path, fingerprint(base)) for _ in range(2))
    assert folder.is_as_left()
    folder.save(review.snapshot())
    assert folder.is_as_left()
    assert not other.is_as_left()
    other.load()
    assert other.is_as_left()
    review.delete([1])
    other.save(review.snapshot())
    assert not folder.is_as_left()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda tree: tree | {"labels": "00000000"}, "review of other instances"),
        (lambda tree: tree | {"format_version": 99}, "newer version"),
        (lambda tree: tree | {"steps": [{"number": 1}]}, "is damaged"),
        (lambda tree: tree | {"statuses": {"1": ["x", "y", "z"]}}, "is damaged"),
        (lambda tree: [], "is damaged"),
    ],
)
def test_a_damaged_review_is_refused_in_words(
    tmp_path: Path, damage: Any, sentence: str
) -> None:
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    review.delete([1])
    folder.save(review.snapshot())
    path = tmp_path / "review.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text()))))
    with pytest.raises(DataError, match=sentence):
        folder.load()


def test_a_lost_or_cut_edit_is_refused(tmp_path: Path) -> None:
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    review.delete([1])
    folder.save(review.snapshot())
    path = tmp_path / "edits" / "000001.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged"):
        folder.load()
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        folder.load()


def test_only_one_window_saves(tmp_path: Path) -> None:
    first, second = ReviewFolder(tmp_path, "a"), ReviewFolder(tmp_path, "a")
    assert first.acquire()
    assert not second.acquire()
    first.release()
    assert second.acquire()
    second.release()


def test_memory_for_undo_is_bounded_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("napari_volseg.review.session._KEPT_BYTES", 1)
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    for label in (1, 2, 3):
        review.delete([label])
        saved = review.snapshot()
        folder.save(saved)
        review.trim(saved)
    assert len(review.history.done) == 1
    again = start(base.copy())
    saved = folder.load()
    assert saved is not None
    again.restore(saved)
    assert (again.labels_ZYX == review.labels_ZYX).all()


def test_what_is_done_while_a_save_is_written_is_not_forgotten(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("napari_volseg.review.session._KEPT_BYTES", 1)
    base = make_labels()
    review = start(base.copy())
    folder = ReviewFolder(tmp_path, fingerprint(base))
    review.delete([1])
    saved = review.snapshot()
    review.delete([2])
    review.delete([3])
    folder.save(saved)
    review.trim(saved)
    folder.save(review.snapshot())
    again = start(base.copy())
    taken_up = folder.load()
    assert taken_up is not None
    again.restore(taken_up)
    assert (again.labels_ZYX == review.labels_ZYX).all()


def test_the_fingerprint_tells_labels_apart() -> None:
    labels = make_labels()
    other = labels.copy()
    other[-1, -1, -1] += 1
    assert fingerprint(labels) == fingerprint(np.asfortranarray(labels))
    assert fingerprint(labels) != fingerprint(other)
    assert fingerprint(labels) != fingerprint(labels.reshape(20, 20, 40))


def test_the_fingerprint_of_widened_labels_is_that_of_before() -> None:
    labels = make_labels().astype(np.uint8)
    wide = labels.astype(np.int32)
    assert fingerprint(wide) != fingerprint(labels)
    assert fingerprint(wide, "uint8") == fingerprint(labels)


def test_strokes_that_nobody_can_take_back_are_forgotten() -> None:
    review = start(make_labels())
    kept = paint(review, CORNER, 5)
    forgotten = weakref.ref(paint(review, CORNER, 6))
    gc.collect()
    assert forgotten() is None
    review.take_back(kept)
