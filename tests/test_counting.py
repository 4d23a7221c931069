"""What is counted slice by slice is what a training reads of the whole."""

import numpy as np
import pytest

from napari_volseg.counting import (
    GAP,
    HELD_OUT,
    IGNORED,
    LEARNT,
    SliceCounter,
    WhatCounts,
)
from napari_volseg.errors import DataError
from napari_volseg.geometry import Box
from napari_volseg.volume import read_annotation

SHAPE = (6, 9, 11)
RULES = ["everywhere", "painted_slices", "painted_voxels"]


@pytest.fixture
def labels():
    labels = np.zeros(SHAPE, np.int32)
    labels[1, 2:5, 3:7] = 4
    labels[2, 4:6, 3:9] = 4
    labels[2, 0:2, 0:2] = 7
    labels[4, 8, 10] = 2**20
    return labels


@pytest.fixture
def region():
    region = np.zeros(SHAPE, bool)
    region[1:4, 1:5] = True
    return region


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("background_id", [0, 7])
@pytest.mark.parametrize("is_inside", [False, True])
def test_counts_are_those_of_the_whole(labels, region, rule, background_id, is_inside):
    region = region if is_inside else None
    ids, annotated = read_annotation(labels, rule, background_id, region)
    if annotated is None:
        annotated = np.ones(SHAPE, bool)
    counted = SliceCounter(labels, rule, background_id, region).count()
    assert counted.n_voxels == ids.size
    assert counted.n_annotated == annotated.sum()
    assert counted.share == annotated.mean()
    assert counted.n_instances == np.count_nonzero(np.unique(ids[annotated]))


def test_only_what_was_painted_is_read_again(labels):
    read = []

    class Watched:
        shape, dtype = labels.shape, labels.dtype

        def __getitem__(self, key):
            read.append(key.start)
            return labels[key]

    counter = SliceCounter(Watched(), "painted_slices")
    assert counter.count().n_instances == 3
    assert read == list(range(6))
    read.clear()
    labels[5, 3, 3] = 9
    counter.forget([5, 99, -1])
    assert counter.count().n_instances == 4
    assert read == [5]
    assert counter.counted_Z.tolist() == [False, True, True, False, True, True]
    labels[:] = 0
    counter.forget()
    assert counter.count().n_annotated == 0


def test_counting_can_be_cancelled_and_goes_on(labels):
    counter = SliceCounter(labels)
    answers = iter([False, False, True])
    assert counter.count(lambda: next(answers)) is None
    assert counter.count().n_instances == 3


def test_an_id_that_is_not_valid_is_refused_by_name(labels):
    labels[3, 3, 3] = -1
    with pytest.raises(DataError, match="'mine' has the negative id -1"):
        SliceCounter(labels, name="'mine'").count()


def view_of(labels, rule, region=None, held_out=(), guard=(0, 0, 0)):
    counter = SliceCounter(labels, rule, 0, region)
    counter.count()
    return WhatCounts(labels, rule, region, counter.counted_Z, held_out, guard)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("is_inside", [False, True])
def test_what_counts_is_what_is_read_for_training(labels, region, rule, is_inside):
    region = region if is_inside else None
    _, annotated = read_annotation(labels, rule, 0, region)
    if annotated is None:
        annotated = np.ones(SHAPE, bool)
    view = view_of(labels, rule, region)
    assert np.array_equal(np.asarray(view) == LEARNT, annotated)


@pytest.mark.parametrize(
    "key",
    [
        (2, slice(None), slice(None)),
        (slice(None), 4, slice(None)),
        (slice(None), slice(None), 3),
        (slice(1, 4), slice(2, 8, 2), slice(None)),
        (np.int64(2), 4, 5),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_a_part_is_the_same_as_in_the_whole(labels, region, rule, key):
    view = view_of(labels, rule, region, [Box((1, 2, 3), (4, 6, 8))], (1, 1, 1))
    assert np.array_equal(view[key], np.asarray(view)[key])


def test_held_out_boxes_have_a_gap_around_and_only_of_what_counts(labels):
    box = Box((2, 3, 3), (4, 6, 6))
    whole = np.asarray(view_of(labels, "painted_slices", None, [box], (0, 1, 2)))
    assert (whole[2, 3:6, 3:6] == HELD_OUT).all()
    assert (whole[2, 2, 1:8] == GAP).all()
    assert (whole[2, 3:6, 6:8] == GAP).all()
    assert (whole[2, 0:2] == LEARNT).all()
    assert (whole[1] == LEARNT).all()
    assert (whole[3] == IGNORED).all()


def test_the_view_follows_the_paint(labels):
    view = view_of(labels, "painted_voxels")
    assert view[3, 3, 3] == IGNORED
    labels[3, 3, 3] = 1
    assert view[3, 3, 3] == LEARNT
