import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from napari_volseg import overlaps as module
from napari_volseg.geometry import iter_boxes
from napari_volseg.overlaps import Overlaps, add_overlaps, count_overlaps

HUGE = 2**63


@st.composite
def pairs(draw):
    """Prediction, truth, where it counts, and a block."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(rng.integers(1, 8, 3))
    kind = draw(st.sampled_from([np.uint8, np.int32, np.uint64]))
    pred, truth = (rng.integers(0, 5, shape).astype(kind) for _ in range(2))
    if kind is np.uint64 and draw(st.booleans()):
        pred[pred > 0] += np.uint64(HUGE)
    annotated = rng.random(shape) < 0.7 if draw(st.booleans()) else None
    block = draw(st.tuples(*[st.integers(1, 5)] * 3))
    return pred, truth, annotated, block


def by_voxel(pred, truth, annotated):
    """The table, counted one voxel at a time."""
    table: dict[tuple[int, int], int] = {}
    for index in np.ndindex(pred.shape):
        if annotated is None or annotated[index]:
            key = int(truth[index]), int(pred[index])
            table[key] = table.get(key, 0) + 1
    return table


def as_dict(found):
    rows = zip(found.true_ids, found.pred_ids, found.counts, strict=True)
    return {(int(t), int(p)): int(n) for t, p, n in rows}


@settings(deadline=None)
@given(pairs())
def test_every_voxel_is_counted_once(problem):
    pred, truth, annotated, _ = problem

    found = count_overlaps(pred, truth, annotated)

    assert as_dict(found) == by_voxel(pred, truth, annotated)
    keys = list(as_dict(found))
    assert keys == sorted(keys)
    assert len(keys) == found.counts.size


@settings(deadline=None)
@given(pairs(), st.sampled_from([1, 3, 2**20]))
def test_parts_add_up_to_the_whole(problem, add_at):
    pred, truth, annotated, block = problem
    parts = (
        count_overlaps(
            pred[box.slices],
            truth[box.slices],
            None if annotated is None else annotated[box.slices],
        )
        for box in iter_boxes(pred.shape, block)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_ADD_AT", add_at)
        found = add_overlaps(parts)

    assert as_dict(found) == as_dict(count_overlaps(pred, truth, annotated))


def test_counts_go_beyond_32_bits():
    one = np.ones(1, np.uint64)
    many = Overlaps(one, one, np.full(1, 2**31 - 1, np.int64))

    assert add_overlaps([many] * 6).counts.tolist() == [6 * (2**31 - 1)]


def test_nothing_is_an_empty_table():
    assert add_overlaps([]).counts.size == 0
    assert count_overlaps(np.ones((2, 2), int), np.ones((2, 2), int)).counts.size == 1
    nowhere = np.zeros((2, 2), bool)
    found = count_overlaps(np.ones((2, 2), int), np.ones((2, 2), int), nowhere)
    assert found.true_ids.dtype == np.uint64
    assert found.counts.size == 0
