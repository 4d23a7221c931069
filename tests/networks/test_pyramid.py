import pytest

from napari_volseg.config import ModelConfig
from napari_volseg.networks import plan_pyramid


def test_one_slice_is_neither_shrunk_nor_convolved_along_z():
    pyramid = plan_pyramid(ModelConfig(filters=(4, 6, 8)), (1, 1, 1), (1, 16, 16))
    assert pyramid.multiple == (1, 4, 4)
    assert all(k[0] == 1 for k in pyramid.kernels)


@pytest.mark.parametrize(
    ("architecture", "depth"),
    [
        ("rsunet", 3),
        ("monai_unet", 3),
        ("mednext", 5),
        ("monai_unetr", 5),
        ("monai_swin_unetr", 6),
    ],
)
def test_a_pyramid_has_the_levels_of_its_network(architecture, depth):
    model = ModelConfig(architecture=architecture, filters=(12, 24, 48))
    pyramid = plan_pyramid(model, (1, 1, 1), (256, 256, 256))
    assert len(pyramid.kernels) == depth
    assert pyramid.multiple == (2 ** (depth - 1),) * 3


def test_deep_voxels_are_left_alone_until_the_others_catch_up():
    pyramid = plan_pyramid(ModelConfig(filters=(4,) * 4), (30, 8, 8), (32, 128, 128))
    assert pyramid.factors == ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert pyramid.kernels[0] == (1, 3, 3)
    assert pyramid.kernels[1] == (3, 3, 3)


def test_cubic_voxels_are_shrunk_evenly():
    pyramid = plan_pyramid(ModelConfig(filters=(4,) * 3), (10, 10, 10), (32, 32, 32))
    assert pyramid.factors == ((2, 2, 2), (2, 2, 2))


def test_short_axes_are_not_shrunk_away():
    pyramid = plan_pyramid(ModelConfig(filters=(4,) * 5), (1, 1, 1), (8, 64, 64))
    assert pyramid.multiple[0] <= 2


def test_given_factors_and_kernels_win():
    model = ModelConfig(
        filters=(4, 4), down_factors=((1, 2, 2),), kernel_sizes=((1, 3, 3), (3, 3, 3))
    )
    pyramid = plan_pyramid(model, (1, 1, 1), (16, 16, 16))
    assert pyramid.factors == ((1, 2, 2),)
    assert pyramid.kernels == ((1, 3, 3), (3, 3, 3))


def test_an_axis_too_short_to_shrink_does_not_hold_the_others_back():
    pyramid = plan_pyramid(ModelConfig(filters=(4,) * 5), (40, 20, 20), (8, 160, 160))
    assert pyramid.multiple == (2, 16, 16)
    assert pyramid.kernels[1:] == ((3, 3, 3),) * 4


def test_binned_voxels_are_what_the_levels_see():
    model = ModelConfig(filters=(4,) * 3, binning=(1, 2, 2))
    pyramid = plan_pyramid(model, (40, 20, 20), (16, 64, 64))
    alone = plan_pyramid(ModelConfig(filters=(4,) * 3), (40, 40, 40), (16, 32, 32))
    assert pyramid.factors == alone.factors
    assert pyramid.kernels == alone.kernels
    assert pyramid.multiple == (4, 8, 8)
