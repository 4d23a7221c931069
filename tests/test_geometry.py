import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_volseg.geometry import (
    Box,
    MarkedBlocks,
    blend_profile,
    iter_boxes,
    reading_block,
    window_starts,
)

sizes = st.tuples(*[st.integers(1, 20)] * 3)


@given(sizes, sizes)
def test_boxes_tile_a_volume_exactly(shape, block):
    count = np.zeros(shape, int)
    for box in iter_boxes(shape, block):
        count[box.slices] += 1
        assert all(n <= b for n, b in zip(box.shape, block, strict=True))
    assert (count == 1).all()


@given(sizes, sizes, st.randoms(use_true_random=False))
def test_marked_blocks_hold_what_was_marked_and_nothing_far_from_it(
    start, shape, random
):
    volume = tuple(4 * a + b + 9 for a, b in zip(start, shape, strict=True))
    box = Box(start, tuple(a + b for a, b in zip(start, shape, strict=True)))
    wanted = np.zeros(volume, bool)
    part = wanted[box.slices]
    part.flat[random.sample(range(part.size), min(3, part.size))] = True
    marked, by_index = MarkedBlocks(volume), MarkedBlocks(volume)
    marked.mark(box, part)
    by_index.mark_voxels(np.flatnonzero(wanted))
    assert marked.boxes() == by_index.boxes()
    inside = np.zeros(volume, bool)
    for found in marked.boxes():
        assert wanted[found.slices].any()
        assert (np.array(found.shape) <= (8, 32, 32)).all()
        inside[found.slices] = True
    assert inside[wanted].all()


@given(st.integers(1, 300), st.integers(1, 100), st.floats(0, 0.89))
def test_windows_cover_an_axis_and_stay_inside(length, window, overlap):
    if length < window:
        with pytest.raises(ValueError, match="shorter than window"):
            window_starts(length, window, overlap)
        return
    starts = window_starts(length, window, overlap)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + window] = True
    assert covered.all()
    assert starts[0] == 0
    assert starts[-1] + window == length
    assert list(starts) == sorted(set(starts))


@given(st.integers(1, 200))
def test_blend_profile_is_symmetric_and_positive(window):
    profile = blend_profile(window)
    assert (profile > 0).all()
    np.testing.assert_allclose(profile, profile[::-1])
    assert profile.argmax() in ((window - 1) // 2, window // 2)


@given(sizes, sizes, sizes)
def test_a_grown_box_holds_the_box_and_stays_in_the_volume(shape, start, halo):
    start = tuple(min(a, n - 1) for a, n in zip(start, shape, strict=True))
    box = Box(start, shape)
    grown = box.grow(halo, shape)
    assert Box.whole(shape).clip(shape).size == np.prod(shape)
    cut = np.arange(np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(cut[grown.slices][box.within(grown)], cut[box.slices])


def test_a_box_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="after its stop"):
        Box((0, 5, 0), (1, 4, 1))


def test_clipping_a_box_outside_the_volume_leaves_nothing():
    assert Box((50, 50, 50), (60, 60, 60)).clip((10, 10, 10)).size == 0


@pytest.mark.parametrize(
    ("chunks", "block"),
    [
        ([], (2, 100, 100)),
        ([None, (1, 100, 100)], (2, 100, 100)),
        ([(10, 10, 10), None], (10, 20, 100)),
        ([(10, 10, 10), (1, 30, 30)], (10, 30, 60)),
        ([(50, 500, 500)], (8, 100, 100)),  # one chunk has more than four times 20,000
    ],
)
def test_a_block_to_read_is_whole_chunks_of_about_the_size_asked_for(chunks, block):
    assert reading_block((100, 100, 100), chunks, 20_000) == block


@given(sizes, st.lists(sizes, max_size=2), st.integers(1, 500))
def test_a_block_to_read_lies_in_the_volume_and_is_not_far_too_large(shape, chunks, n):
    block = reading_block(shape, chunks, n)
    assert all(1 <= b <= m for b, m in zip(block, shape, strict=True))
    assert np.prod(block) <= 4 * n


def test_a_box_contains_what_lies_inside_it():
    box = Box((1, 2, 3), (5, 6, 7))

    assert box.contains(box)
    assert box.contains(Box((2, 2, 4), (5, 5, 7)))
    assert not box.contains(Box((0, 2, 3), (5, 6, 7)))
    assert not box.contains(Box((1, 2, 3), (5, 6, 8)))
