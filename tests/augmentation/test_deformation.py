import numpy as np
import pytest

from napari_volseg.augmentation import draw_deformation
from napari_volseg.config import AugmentationConfig

SIZE = (8, 32, 32)
ISOTROPIC, FLAT = (1.0, 1.0, 1.0), (40.0, 8.0, 8.0)


def _draw(seed=0, size=SIZE, voxel_size=ISOTROPIC, in_plane=False, **settings):
    chances = AugmentationConfig(preset="none", **settings).chances
    rng = np.random.default_rng(seed)
    return draw_deformation(size, voxel_size, chances, rng, in_plane=in_plane)


def test_nothing_is_drawn_when_both_are_off():
    assert _draw() is None


def test_voxels_that_are_not_square_are_not_turned():
    assert _draw(voxel_size=(1.0, 1.0, 2.0), affine=1.0) is None
    assert _draw(affine=1.0) is not None


@pytest.mark.parametrize("settings", [{"affine": 1.0}, {"elastic": 1.0}])
def test_slices_stay_slices_where_voxels_are_deep(settings):
    assert _draw(voxel_size=FLAT, **settings).in_plane


def test_isotropic_volumes_bend_in_space():
    assert not _draw(elastic=1.0).in_plane
    assert _draw(size=(1, 32, 32), elastic=1.0).in_plane
    assert _draw(in_plane=True, elastic=1.0).in_plane


@pytest.mark.parametrize("voxel_size", [ISOTROPIC, FLAT, (1.2, 1.0, 1.0)])
@pytest.mark.parametrize("seed", range(5))
def test_a_bend_never_folds(seed, voxel_size):
    deformation = _draw(seed, voxel_size=voxel_size, elastic=1.0)
    offsets = deformation.offsets_ZYXA
    n_axes = offsets.shape[-1]
    for axis in range(n_axes):
        steps = np.diff(offsets[..., axis], axis=axis + 3 - n_axes)
        assert (steps > 0).mean() > 0.995


@pytest.mark.parametrize("size", [(4, 64, 64), (8, 128, 128), (32, 64, 64)])
def test_a_bend_keeps_what_is_above_above_in_patches_of_few_slices(size):
    for seed in range(10):
        depths = _draw(seed, size, elastic=1.0).offsets_ZYXA[..., 0]
        assert (np.diff(depths, axis=0) > 0).all()


@pytest.mark.parametrize("voxel_size", [ISOTROPIC, FLAT])
@pytest.mark.parametrize(
    "settings", [{"affine": 1.0}, {"elastic": 1.0}, {"affine": 1.0, "elastic": 1.0}]
)
@pytest.mark.parametrize("seed", range(3))
def test_each_voxel_comes_from_where_the_deformation_says(seed, settings, voxel_size):
    """The coordinates of the source, resampled, are the coordinates asked for."""
    deformation = _draw(seed, voxel_size=voxel_size, **settings)
    depth = SIZE[0] if deformation.in_plane else 60
    source = np.stack(
        np.meshgrid(np.arange(depth), np.arange(120), np.arange(120), indexing="ij")
    ).astype(np.float32)
    centre = np.array([depth // 2, 60, 60])
    grid = deformation.grid(centre, source.shape[1:])
    found = deformation.sample(source, grid, "bilinear")
    axes = (1, 2) if deformation.in_plane else (0, 1, 2)
    for i, axis in enumerate(axes):
        wanted = np.broadcast_to(
            centre[axis] + deformation.offsets_ZYXA[..., i], found.shape[1:]
        )
        np.testing.assert_allclose(found[axis], wanted, atol=2e-3)
    low, high = deformation.reach()
    inside = (np.moveaxis(found, 0, -1) - centre).reshape(-1, 3)
    assert (inside.min(0) >= low - 1e-3).all()
    assert (inside.max(0) < high).all()


def test_a_bend_keeps_the_centre_of_the_crop():
    small = _draw(voxel_size=FLAT, elastic=1.0)
    plain = np.stack(
        np.meshgrid(np.arange(32) - 16, np.arange(32) - 16, indexing="ij"), axis=-1
    )
    bend = small.offsets_ZYXA - plain
    assert np.abs(bend).max() < 8
    assert bend.std() > 0.2
