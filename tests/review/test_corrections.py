"""What a review teaches, voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest

from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.review import Edit, delete
from napari_volseg.review.corrections import (
    find_corrected,
    make_corrections,
    near,
    paint_annotation,
)
from napari_volseg.targets import make_targets
from napari_volseg.volume import read_annotation

VOXEL_SIZE = (30.0, 8.0, 8.0)


def make_labels() -> np.ndarray:
    """7 and 9 touch; 11 lies alone."""
    labels = np.zeros((7, 24, 40), np.uint32)
    labels[2:5, 8:16, 4:12] = 7
    labels[2:5, 8:16, 12:20] = 9
    labels[2:5, 8:16, 30:36] = 11
    return labels


def test_only_what_a_person_stands_for_counts() -> None:
    labels = make_labels()
    mask = np.zeros(labels.shape, np.uint8)
    mask[labels > 0] = 255
    mask[3, 4:6, 4:12] = 100  # doubtful background near the accepted one
    made, background = make_corrections(labels, [7], mask, None, VOXEL_SIZE)
    assert background == 2
    assert ((made == 1) == (labels == 7)).all()
    # Nobody looked at its neighbour, nor at the one far away.
    assert not made[labels == 9].any()
    assert not made[labels == 11].any()
    # Background next to it counts, as far as four voxels where the mask is sure.
    assert made[3, 7, 6] == background
    assert made[3, 12, 0] == background
    assert made[1, 12, 6] == background
    assert not made[0].any()  # two slices of 30 nm away
    assert not made[3, 4:6, 6].any()
    assert not made[3, 12, 25:].any()


def test_without_maps_only_the_nearest_background_counts() -> None:
    labels = make_labels()
    made, background = make_corrections(labels, [7], None, None, VOXEL_SIZE)
    assert made[3, 7, 6] == background
    assert made[3, 6, 6] == 0


def test_ids_of_64_bits_are_told_apart() -> None:
    labels = make_labels().astype(np.uint64)
    labels[labels > 0] += np.uint64(2**59)
    result, background = make_corrections(
        labels, [2**59 + 7, 2**59 + 9], None, None, VOXEL_SIZE
    )
    assert background == 3
    assert ((result == 1) == (labels == 2**59 + 7)).all()
    assert ((result == 2) == (labels == 2**59 + 9)).all()


def test_what_was_deleted_is_background_unless_it_is_something_now() -> None:
    labels = make_labels()
    deleted = np.zeros(labels.shape, bool)
    deleted[3, 20:22, 30:36] = True
    deleted[3, 10, 31] = True  # in 11 now
    made, background = make_corrections(labels, [7], None, deleted, VOXEL_SIZE)
    assert (made[3, 20:22, 30:36] == background).all()
    assert made[3, 10, 31] == 0


def test_nothing_accepted_is_refused() -> None:
    for accepted in ([], [5]):
        with pytest.raises(DataError, match="nothing is accepted"):
            make_corrections(make_labels(), accepted, None, None, VOXEL_SIZE)


def test_corrected_is_where_something_was_changed_not_what_was_looked_at() -> None:
    labels = np.zeros((16, 100, 100), np.int32)
    boxes = {
        1: Box((1, 40, 4), (4, 48, 12)),
        2: Box((9, 70, 70), (12, 76, 78)),
    }
    for label, box in boxes.items():
        labels[box.slices] = label
    edits = [Edit("accepted", (), ()), delete(labels, {2: boxes[2]})]
    painted = np.array([np.ravel_multi_index((15, 99, 0), labels.shape)])
    assert find_corrected(edits, painted, labels.shape) == (
        Box((8, 64, 64), (16, 96, 96)),
        Box((8, 96, 0), (16, 100, 32)),
    )


def test_the_training_knows_the_boundary_of_what_was_accepted() -> None:
    labels = make_labels()
    mask = np.where(labels > 0, 255, 0).astype(np.uint8)
    made, background = make_corrections(labels, [7, 11], mask, None, VOXEL_SIZE)
    plain, annotated = read_annotation(made, "painted_voxels", background)
    assert annotated is not None
    assert ((plain > 0) == np.isin(labels, [7, 11])).all()
    targets = make_targets(plain, VOXEL_SIZE, annotated_ZYX=annotated)
    boundary, known = targets.values_CZYX[1], targets.valid_CZYX[1]
    # Where 11 meets background its boundary is known and found.
    assert known[3, 8, 32]
    assert boundary[3, 8, 32] == 255
    assert targets.valid_CZYX[2, 3, 12, 33]
    # Where 7 meets the unlabelled 9, nobody knows.
    assert not known[3, 12, 11]


@pytest.mark.parametrize("more", [0, 2**31 - 12, 2**59])
def test_annotation_painted_into_labels_is_read_back(more: int) -> None:
    labels = make_labels().astype(np.int64)
    labels[labels > 0] += more
    annotated = np.zeros(labels.shape, bool)
    annotated[:, :, :14] = True
    painted, background = paint_annotation(labels, annotated)
    again, known = read_annotation(painted, "painted_voxels", background)
    assert known is not None
    assert (known == annotated).all()
    assert (again[annotated] == labels[annotated]).all()
    assert painted.dtype == (np.int64 if more else np.int32)


def test_near_is_a_box_around_every_voxel_cut_at_the_volume() -> None:
    mask = np.zeros((7, 24, 40), bool)
    mask[3, 5, 2] = mask[6, 20, 39] = True
    expected = np.zeros(mask.shape, bool)
    expected[2:5, 5, :6] = True
    expected[5:7, 20, 36:] = True
    assert (near(mask, (1, 0, 3)) == expected).all()
