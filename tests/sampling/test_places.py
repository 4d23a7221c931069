import numpy as np
import pytest

from napari_volseg.sampling import places as module
from napari_volseg.sampling.places import PER_OBJECT, find_places
from napari_volseg.targets import make_targets


@pytest.fixture
def labels(rng):
    """A large object, 30 tiny ones, and two that touch."""
    labels = np.zeros((20, 80, 80), np.int32)
    labels[:, :30, :30] = 1
    labels[4:10, 60:66, 50:56] = 2
    labels[4:10, 60:66, 56:62] = 3
    for index in range(30):
        y, x = 36 + index // 10 * 5, 4 + index % 10 * 7
        labels[2:4, y : y + 2, x : x + 2] = 10 + index
    return labels


def _find(labels, known=None, seed=0):
    known = np.ones(labels.shape, bool) if known is None else known
    boundary = make_targets(labels, (1.0, 1.0, 1.0)).values_CZYX[1]
    return find_places(labels, known, boundary, seed)


def test_every_object_has_places_inside_it(labels):
    places = _find(labels)
    assert places.n_objects == 33
    sizes = np.unique(labels[labels > 0], return_counts=True)[1]
    np.testing.assert_array_equal(places.sizes_M, sizes)
    for index, id_ in enumerate(np.unique(labels[labels > 0])):
        own = places.objects_N3[places.starts_M[index] : places.starts_M[index + 1]]
        assert (labels[tuple(own.T)] == id_).all()
        assert len(own) == min(PER_OBJECT, sizes[index])
        assert len(np.unique(own, axis=0)) == len(own)


def test_boundary_places_are_where_objects_touch(labels):
    places = _find(labels)
    z, y, x = places.boundary_N3.T
    assert set(np.unique(labels[z, y, x])) == {2, 3}
    assert set(x) == {55, 56}
    assert len(places.boundary_N3) == 2 * 36


def test_without_touching_objects_any_boundary_will_do(labels):
    labels[labels == 3] = 0
    places = _find(labels)
    boundary = make_targets(labels, (1.0, 1.0, 1.0)).values_CZYX[1]
    assert len(places.boundary_N3) > 0
    assert (boundary[tuple(places.boundary_N3.T)] > 0).all()


def test_only_known_voxels_are_places(labels):
    known = np.zeros(labels.shape, bool)
    known[:, 35:, :] = True
    places = _find(labels, known)
    for found in (places.objects_N3, places.anywhere_N3, places.boundary_N3):
        assert known[tuple(found.T)].all()
    assert places.n_objects == 32
    assert places.n_annotated == known.sum()
    assert places.n_foreground == (labels[known] > 0).sum()


def test_size_classes_span_a_factor_of_two_and_hold_every_object(labels):
    places = _find(labels)
    assert sorted(np.concatenate(places.classes)) == list(range(places.n_objects))
    for members in places.classes:
        sizes = places.sizes_M[members]
        assert sizes.max() < 2 * sizes.min()


def test_the_same_seed_gives_the_same_places_and_another_others(labels):
    first, second, other = _find(labels), _find(labels), _find(labels, seed=1)
    np.testing.assert_array_equal(first.objects_N3, second.objects_N3)
    np.testing.assert_array_equal(first.anywhere_N3, second.anywhere_N3)
    assert not np.array_equal(first.objects_N3, other.objects_N3)


def test_memory_for_candidates_is_bounded_and_the_choice_still_fair(
    labels, monkeypatch
):
    whole = _find(labels)
    monkeypatch.setattr(module, "_TRIM", 100)
    monkeypatch.setattr(module, "_PLACES", 500)
    monkeypatch.setattr(module, "_BLOCK", (20, 16, 16))
    places = _find(labels)
    assert len(places.anywhere_N3) == 500
    assert len(np.unique(places.anywhere_N3, axis=0)) == 500
    np.testing.assert_array_equal(places.sizes_M, whole.sizes_M)
    left = (places.anywhere_N3[:, 2] < 40).mean()
    assert left == pytest.approx(0.5, abs=0.08)


def test_ids_beyond_32_bits_stay_apart():
    labels = np.zeros((4, 16, 16), np.int64)
    labels[:, :4, :4] = 2**62
    labels[:, 8:12, 8:12] = 2**62 + 1
    assert _find(labels).n_objects == 2
