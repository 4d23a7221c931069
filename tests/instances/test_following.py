import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from napari_volseg.config import InstancesConfig
from napari_volseg.errors import DataError
from napari_volseg.instances import Follower, find_seeds, following, segment
from napari_volseg.sample_data import make_sample
from napari_volseg.targets import make_targets

SHARE = st.one_of(
    st.sampled_from([0.0, 0.3, 0.5, 0.6, 1.0, 1.1]),
    st.integers(0, 110).map(lambda n: n / 100),
)
MOVES = st.one_of(
    *(
        st.tuples(st.just(name), SHARE)
        for name, field in InstancesConfig.model_fields.items()
        if field.annotation is float
    ),
    st.tuples(st.just("min_seed_size"), st.sampled_from([0, 1, 2, 8, 60])),
    st.tuples(st.just("min_size"), st.sampled_from([0, 30, 400])),
)


def made_maps(kind, seed=0, shape=(14, 40, 44)):
    rng = np.random.default_rng(seed)
    if kind == "noise":
        return rng.integers(0, 256, (3, *shape), np.uint8)
    if kind == "steps":
        return rng.integers(0, 3, (3, *shape), np.uint8) * np.uint8(120)
    labels_ZYX = make_sample("cells", shape, seed=seed).labels_ZYX
    maps = [
        gaussian_filter(channel.astype(np.float32), 1) + rng.normal(0, 12, shape)
        for channel in make_targets(labels_ZYX, (8.0, 8.0, 8.0)).values_CZYX
    ]
    return np.clip(np.stack(maps), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module", params=["cells", "noise", "steps"])
def maps(request):
    return made_maps(request.param)


@settings(deadline=None, max_examples=25)
@given(moves=st.lists(MOVES, min_size=2, max_size=12))
def test_any_order_of_moves_gives_what_segment_gives(maps, moves):
    follower, config = Follower(maps), InstancesConfig()
    for name, value in moves:
        config = config.model_copy(update={name: value})

        np.testing.assert_array_equal(follower.segment(config), segment(maps, config))
        np.testing.assert_array_equal(
            follower.find_seeds(config), find_seeds(maps, config)
        )


@pytest.mark.parametrize("name", InstancesConfig.model_fields)
def test_a_slider_may_be_drawn_there_and_back(maps, name):
    is_size = name.endswith("size")
    values = [0, 1, 4, 40, 400] if is_size else np.linspace(0, 1.1, 23).tolist()
    follower = Follower(maps)
    for value in [*values, *values[::-1]]:
        config = InstancesConfig(**{name: value})

        np.testing.assert_array_equal(follower.segment(config), segment(maps, config))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), start=MOVES, move=MOVES)
def test_a_flood_is_repaired_however_much_changes(seed, start, move):
    maps = made_maps("steps", seed, shape=(3, 9, 10))
    loose = InstancesConfig(min_seed_size=0, min_size=0)
    one = loose.model_copy(update=dict([start]))
    two = one.model_copy(update=dict([move]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "_MANY", 0)
        follower = Follower(maps)
        for config in (one, two, one):
            expected = segment(maps, config)
            np.testing.assert_array_equal(follower.segment(config), expected)


def test_small_changes_make_no_new_flood(monkeypatch):
    maps = made_maps("cells")
    follower = Follower(maps)
    follower.segment(InstancesConfig())
    monkeypatch.setattr(following, "flood", None)

    for name, value in [("mask", 0.55), ("seed_distance", 0.32), ("min_size", 90)]:
        config = InstancesConfig(**{name: value})
        np.testing.assert_array_equal(follower.segment(config), segment(maps, config))


def test_seeds_that_stay_are_the_same_array():
    follower = Follower(made_maps("cells"))

    seeds = follower.find_seeds(InstancesConfig())

    assert follower.find_seeds(InstancesConfig(mask=0.2, min_size=5)) is seeds
    assert follower.find_seeds(InstancesConfig(seed_mask=0.2)) is not seeds


def test_maps_and_earlier_answers_are_never_written():
    maps = made_maps("cells")
    before = maps.copy()
    follower = Follower(maps)
    first = follower.segment(InstancesConfig())
    kept = first.copy()

    follower.segment(InstancesConfig(mask=0.8, seed_distance=0.6))

    np.testing.assert_array_equal(maps, before)
    np.testing.assert_array_equal(first, kept)


def test_a_change_that_fails_halfway_leaves_nothing_wrong(monkeypatch):
    maps = made_maps("cells")
    follower = Follower(maps)
    follower.segment(InstancesConfig())
    with monkeypatch.context() as patch:
        patch.setattr(following, "repair", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            follower.segment(InstancesConfig(mask=0.6))

    config = InstancesConfig(mask=0.7)
    np.testing.assert_array_equal(follower.segment(config), segment(maps, config))


@pytest.mark.parametrize("shape", [(0, 4, 4), (1, 1, 1), (1, 1, 9), (5, 1, 1)])
def test_volumes_without_room(shape):
    maps = np.stack([np.full(shape, v, np.uint8) for v in (255, 0, 255)])
    follower = Follower(maps)
    for config in (InstancesConfig(), InstancesConfig(min_size=0, min_seed_size=0)):
        np.testing.assert_array_equal(follower.segment(config), segment(maps, config))


def test_other_arrays_are_refused():
    with pytest.raises(DataError, match="mask, boundary and distance"):
        Follower(np.zeros((3, 4, 4), np.uint8))
