"""Boxes to annotate next, on volumes made by hand."""

import numpy as np
import pytest

from napari_volseg.suggesting import box_size, suggest_boxes
from napari_volseg.volume import Volume

SHAPE = (8, 128, 128)
SIZE = (8, 32, 32)


def texture(seed=0, level=100.0, noise=5.0):
    """A volume of one look all over."""
    rng = np.random.default_rng(seed)
    return (level + noise * rng.standard_normal(SHAPE)).astype(np.float32)


def part(row, column):
    """The box of a row and column of the grid, as an index."""
    return (
        slice(None),
        slice(32 * row, 32 * row + 32),
        slice(32 * column, 32 * column + 32),
    )


def suggest(image, known=None, maps=None, n=3):
    return suggest_boxes(Volume(image), known, maps, n=n, size=SIZE)


def places(suggestions):
    return [(s.box.start[1] // 32, s.box.start[2] // 32) for s in suggestions]


@pytest.fixture
def known():
    known = np.zeros(SHAPE, bool)
    known[part(0, 0)] = known[part(0, 1)] = True
    return known


def test_the_box_in_which_the_network_is_least_sure_comes_first(known):
    mask = np.full(SHAPE, 250, np.uint8)
    mask[part(2, 3)] = 128
    boundary = np.zeros(SHAPE, np.uint8)
    found = suggest(texture(), known, (mask, boundary))
    assert places(found)[0] == (2, 3)
    assert found[0].uncertainty == pytest.approx(0.5, abs=0.01)
    assert "less sure than" in found[0].reasons[0]


def test_without_maps_the_box_unlike_the_annotation_comes_first(known):
    image = texture()
    image[part(3, 1)] += 60
    found = suggest(image, known)
    assert places(found)[0] == (3, 1)
    assert found[0].uncertainty is None
    assert found[0].reasons == ("brighter than what is annotated",)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda a: a - 60, "darker"),
        (lambda a: 100 + 6 * (a - 100), "contrast"),
        (lambda a: 100 + (a - 100) / 8, "contrast"),
    ],
)
def test_the_reason_says_how_a_box_differs(known, change, word):
    image = texture()
    image[part(3, 1)] = change(image[part(3, 1)])
    found = suggest(image, known, n=1)
    assert places(found) == [(3, 1)]
    assert word in found[0].reasons[0]


def test_suggestions_differ_from_each_other(known):
    image = texture()
    for place in ((1, 1), (1, 3)):
        image[part(*place)] += 60
    image[part(3, 3)] -= 40
    found = suggest(image, known, n=2)
    assert {(3, 3)} < set(places(found))
    assert set(places(found)) & {(1, 1), (1, 3)}


def test_what_is_annotated_is_not_suggested_and_what_is_not_is(known):
    found = suggest(texture(), known, n=100)
    assert len(found) == len(set(places(found))) == 14
    assert not {(0, 0), (0, 1)} & set(places(found))
    assert suggest(texture(), np.ones(SHAPE, bool)) == []


def test_one_annotated_slice_says_what_is_known(known):
    sliced = np.zeros(SHAPE, bool)
    sliced[3] = True
    image = texture()
    image[:3, 64:96, :32] += 60
    image[4:, 64:96, :32] += 60
    found = suggest(image, sliced, n=1)
    assert places(found) == [(2, 0)]
    assert "brighter" in found[0].reasons[0]


def test_padding_of_one_gray_value_is_not_suggested():
    image = texture()
    image[:, 64:] = 0
    found = suggest(image, None, n=100)
    assert len(found) == 8
    assert all(row < 2 for row, _ in places(found))


def test_with_nothing_annotated_the_typical_comes_first():
    image = texture()
    image[part(0, 0)] += 200
    found = suggest(image, None, n=2)
    assert found[0].reasons == ("typical of the volume",)
    assert found[0].novelty is None
    assert places(found)[1] == (0, 0)


def test_only_a_few_slices_of_one_box_are_read_at_a_time(known):
    image, largest = texture(), 0

    class Lazy:
        shape, dtype = image.shape, image.dtype

        def __getitem__(self, key):
            nonlocal largest
            part = image[key]
            largest = max(largest, part.size)
            return part

    lazy = suggest_boxes(Volume(Lazy()), known, n=3, size=SIZE)
    assert largest == 32 * 32
    assert lazy == suggest(image, known)


def test_a_volume_of_very_many_boxes_is_sampled(monkeypatch):
    monkeypatch.setattr("napari_volseg.suggesting._MAX_BOXES", 5)
    assert len(suggest(texture(), None, n=100)) == 4


def test_cancelling_ends_it(known):
    answers = iter([False, False, True])
    image = Volume(texture())
    assert (
        suggest_boxes(image, known, size=SIZE, is_cancelled=lambda: next(answers)) == []
    )


def test_an_image_of_two_channels_and_one_of_infinite_values(known):
    image = np.stack([texture(), texture(1)])
    image[0, 0, 40, 40] = np.inf
    assert len(suggest(image, known)) == 3


@pytest.mark.parametrize(
    ("shape", "voxel_size", "size"),
    [
        ((100, 1000, 1000), (30.0, 8.0, 8.0), (34, 128, 128)),
        ((64, 256, 256), (8.0, 8.0, 8.0), (64, 64, 64)),
        ((1, 20, 30), (1.0, 1.0, 1.0), (1, 20, 30)),
    ],
)
def test_boxes_are_as_deep_as_wide(shape, voxel_size, size):
    assert box_size(shape, voxel_size) == size
