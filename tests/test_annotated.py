"""The annotated part of a volume, and the part of it that is full of objects."""

import numpy as np
import pytest

from napari_volseg.annotated import annotated_box, fullest_box
from napari_volseg.geometry import Box
from napari_volseg.volume import LabelledVolume, Volume

SHAPE = (20, 60, 80)


def _volume(labels, annotated=None):
    return LabelledVolume(Volume(np.zeros(labels.shape)), labels, annotated)


def _share(volume, box):
    """Return the share of the annotated object voxels that a box holds."""
    counts = volume.labels_ZYX > 0
    if volume.annotated_ZYX is not None:
        counts &= volume.annotated_ZYX
    return counts[box.slices].sum() / counts.sum()


def test_an_annotation_that_fits_is_returned_whole():
    labels = np.ones(SHAPE, np.int32)
    annotated = np.zeros(SHAPE, bool)
    annotated[3:9, 10:30, 5:50] = True
    box = Box((3, 10, 5), (9, 30, 50))
    assert annotated_box(_volume(labels, annotated)) == box
    assert fullest_box(_volume(labels, annotated), 6 * 20 * 45) == box
    assert fullest_box(_volume(labels), labels.size) == Box.whole(SHAPE)


@pytest.mark.parametrize("corner", [(0, 0, 0), (16, 50, 0), (0, 50, 70)])
def test_objects_in_a_corner_are_found(corner):
    labels = np.zeros(SHAPE, np.int32)
    labels[tuple(slice(c, c + n) for c, n in zip(corner, (4, 10, 10), strict=True))] = 7
    box = fullest_box(_volume(labels), 12_000)
    assert box.size <= 12_000
    assert Box.whole(SHAPE).size >= box.size
    assert _share(_volume(labels), box) == 1


def test_objects_that_are_not_annotated_do_not_count():
    labels = np.zeros(SHAPE, np.int32)
    labels[:, :, :40] = 1
    labels[8:12, 40:50, 60:70] = 2
    annotated = np.ones(SHAPE, bool)
    annotated[:, :, :40] = False
    annotated[:2, :2, :2] = True  # so that the annotation spans the volume
    volume = _volume(labels, annotated)
    assert _share(volume, fullest_box(volume, 12_000)) > 0.9


def test_a_painted_slice_is_met_and_not_the_middle_between_two():
    labels = np.ones(SHAPE, np.int32)
    annotated = np.zeros(SHAPE, bool)
    annotated[[2, 17]] = True
    box = fullest_box(_volume(labels, annotated), 12_000)
    assert annotated[box.slices].any()


def test_of_a_full_volume_the_middle_is_taken():
    box = fullest_box(_volume(np.ones(SHAPE, np.int32)), 12_000)
    middle = [(a + b) / 2 for a, b in zip(box.start, box.stop, strict=True)]
    for place, length in zip(middle, SHAPE, strict=True):
        assert abs(place - length / 2) <= length / 16 + 1
