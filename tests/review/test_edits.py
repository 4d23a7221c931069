"""Edits: exact, taken back exactly, and considerate of what others painted."""

from __future__ import annotations

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import (
    Edit,
    Review,
    delete,
    difference,
    instance_table,
    merge,
    place_pieces,
    renumber,
)
from napari_volseg.sample_data import make_sample

VOXEL_SIZE = (30.0, 8.0, 8.0)


def make_review(seed: int = 0, dtype: type = np.uint32) -> Review:
    labels = make_sample("cells", (10, 40, 40), seed=seed).labels_ZYX.astype(dtype)
    return Review(labels, instance_table(labels, None, VOXEL_SIZE), VOXEL_SIZE)


def halves(review: Review, label: int) -> Edit:
    """Split an instance in the middle of its box, along its longest axis."""
    box = review.box(label)
    before = review.labels_ZYX[box.slices].copy()
    axis = int(np.argmax(box.shape))
    middle = np.indices(box.shape)[axis] >= box.shape[axis] // 2
    pieces = np.where(before == label, 1 + middle, 0).astype(np.int32)
    first = review.first_free
    return place_pieces("split", box, before, pieces, [label], first)


def test_merging_gives_all_the_id_of_the_largest() -> None:
    review = make_review()
    before = review.labels_ZYX.copy()
    ids = [1, 2, 3]
    largest = max(ids, key=lambda i: int((before == i).sum()))

    review.merge(ids)

    assert (review.labels_ZYX[np.isin(before, ids)] == largest).all()
    assert (review.labels_ZYX == before)[~np.isin(before, ids)].all()
    assert review.status(largest) == "corrected"


def test_a_merge_takes_two() -> None:
    review = make_review()
    with pytest.raises(DataError, match="two instances"):
        review.merge([1])


def test_what_is_gone_is_not_edited_once_more() -> None:
    labels = make_review().labels_ZYX
    boxes = {1: Box.whole(labels.shape), 2: Box.whole(labels.shape)}
    delete(labels, {1: boxes[1]}).apply(labels)
    with pytest.raises(DataError, match="no instance 1 any more"):
        delete(labels, {1: boxes[1]})
    with pytest.raises(DataError, match="no instance 1 any more"):
        merge(labels, boxes, 2)


def test_the_largest_share_of_a_split_keeps_the_id() -> None:
    before = np.zeros((1, 1, 10), np.int32)
    before[0, 0, :8] = 4
    before[0, 0, 9] = 7
    pieces = np.array([[[1, 1, 2, 2, 2, 3, 3, 3, 3, 3]]], np.int32)

    edit = place_pieces("split", Box.whole(before.shape), before, pieces, [4], 8)

    after = before.copy()
    edit.apply(after)
    # Piece 3 meets the other instance, which keeps its voxel.
    assert after[0, 0].tolist() == [8, 8, 4, 4, 4, 9, 9, 9, 9, 7]
    assert edit.ids == (4, 8, 9)


def test_ids_that_the_type_cannot_hold_are_refused() -> None:
    before = np.ones((1, 2, 2), np.uint8)
    pieces = np.array([[[1, 1], [2, 2]]], np.int32)
    with pytest.raises(DataError, match="uint8 and cannot hold the new id 256"):
        place_pieces("split", Box.whole(before.shape), before, pieces, [1], 256)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_any_sequence_of_edits_is_taken_back_and_done_again(
    seed: int, dtype: type
) -> None:
    rng = np.random.default_rng(seed)
    review = make_review(seed, dtype)
    states = [review.labels_ZYX.copy()]
    marks = [dict(review.marks)]
    for _ in range(12):
        present = [int(i) for i in np.unique(review.labels_ZYX) if i]
        if len(present) < 3:
            break
        chosen = [int(i) for i in rng.choice(present, 2, replace=False)]
        action = rng.choice(["merge", "delete", "split", "say", "paint over"])
        if action == "merge":
            review.merge(chosen)
        elif action == "delete":
            review.delete(chosen)
        elif action == "split":
            edit = halves(review, chosen[0])
            review.do(edit, dict.fromkeys(edit.ids, "corrected"))
        elif action == "say":
            review.say(chosen, "accepted")
        else:
            box = review.box(chosen[0])
            before = review.labels_ZYX[box.slices].copy()
            after = rng.choice(before.ravel(), before.shape)
            review.do(difference("grow", box, before, after), {chosen[0]: "corrected"})
        states.append(review.labels_ZYX.copy())
        marks.append(dict(review.marks))
        # Up and down as far as it goes by chance.
        for _ in range(int(rng.integers(0, 3))):
            position = len(review.history.done)
            if rng.random() < 0.5:
                review.undo()
            else:
                review.redo()
            position = len(review.history.done)
            assert (review.labels_ZYX == states[position]).all()
            assert review.marks == marks[position]
        del (
            states[len(review.history.done) + 1 :],
            marks[len(review.history.done) + 1 :],
        )
        review.history.undone.clear()

    for position in reversed(range(len(states) - 1)):
        assert review.undo()[1] == 0
        assert (review.labels_ZYX == states[position]).all()
        assert review.marks == marks[position]
    assert review.undo() == (None, 0)
    for position in range(1, len(states)):
        assert review.redo()[1] == 0
        assert (review.labels_ZYX == states[position]).all()
        assert review.marks == marks[position]
    assert review.redo() == (None, 0)


def test_undo_leaves_what_was_painted_since() -> None:
    review = make_review()
    before = review.labels_ZYX.copy()
    box = review.box(1)
    review.delete([1])
    z, y, x = (int(v[0]) for v in np.nonzero(before == 1))
    review.labels_ZYX[z, y, x] = 77

    _, n_left = review.undo()

    assert n_left == 1
    assert review.labels_ZYX[z, y, x] == 77
    before[z, y, x] = 77
    assert (review.labels_ZYX == before).all()
    assert box.size >= 1


def test_an_edit_leaves_what_was_painted_while_it_was_computed() -> None:
    review = make_review()
    edit = halves(review, 1)
    z, y, x = (int(v[-1]) for v in np.nonzero(review.labels_ZYX == 1))
    review.labels_ZYX[z, y, x] = 0
    assert edit.apply(review.labels_ZYX) == 1
    assert review.labels_ZYX[z, y, x] == 0


def test_deltas_keep_bits_of_the_box_only() -> None:
    labels = np.zeros((64, 64, 64), np.uint32)
    labels[10:20, 10:20, 10:26] = 5
    labels[10:20, 10:20, 26:42] = 6
    five, six = Box((10, 10, 10), (20, 20, 26)), Box((10, 10, 26), (20, 20, 42))

    merged = merge(labels, {5: five, 6: six}, 5)
    gone = delete(labels, {5: five})

    assert merged.nbytes == gone.nbytes == 10 * 10 * 2
    assert merged.n_voxels == gone.n_voxels == 1600


def test_an_edit_survives_its_arrays() -> None:
    review = make_review()
    edit = halves(review, 1)
    copy = Edit.from_arrays(edit.kind, edit.ids, edit.arrays())
    one, other = review.labels_ZYX.copy(), review.labels_ZYX.copy()
    edit.apply(one)
    copy.apply(other)
    assert (one == other).all()
    assert copy.ids == edit.ids


def test_a_delta_that_does_not_fit_is_refused() -> None:
    review = make_review()
    arrays = halves(review, 1).arrays()
    with pytest.raises(ValueError, match="do not fit its box"):
        Edit.from_arrays("split", (1,), arrays | {"0_bits": arrays["0_bits"][:1]})
    with pytest.raises(ValueError, match="do not fit its voxels"):
        Edit.from_arrays("split", (1,), arrays | {"0_new": np.arange(3)})


def test_new_ids_give_way_to_what_was_painted_meanwhile() -> None:
    labels = np.ones((1, 2, 9), np.uint8)
    pieces = np.repeat([[[1] * 4 + [2] * 3 + [3] * 2]], 2, axis=1).astype(np.int32)
    box = Box.whole(labels.shape)
    edit = place_pieces("split", box, labels, pieces, [1], 2)
    assert edit.ids == (1, 2, 3)
    assert renumber(edit, 2, 2, labels.dtype) is edit
    later = renumber(edit, 2, 7, labels.dtype)
    assert later.ids == (1, 7, 8)
    after = labels.copy()
    later.apply(after)
    assert np.unique(after).tolist() == [1, 7, 8]
    later.revert(after)
    assert (after == labels).all()
    with pytest.raises(DataError, match="cannot hold the new id 256"):
        renumber(edit, 2, 255, labels.dtype)
