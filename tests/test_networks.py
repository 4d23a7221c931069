import numpy as np
import pytest
import torch

from napari_volseg.config import ModelConfig
from napari_volseg.networks import (
    Pyramid,
    build_network,
    plan_pyramid,
    required_multiple,
)
from napari_volseg.networks.rsunet import RSUNet, Upsample

FILTERS = (4, 6, 8)
ARCHITECTURES = [
    ModelConfig(filters=FILTERS),
    ModelConfig(filters=FILTERS, rsunet_norm="group"),
    ModelConfig(filters=FILTERS, rsunet_norm="instance"),
    ModelConfig(filters=FILTERS, deep_supervision=True),
    ModelConfig(architecture="monai_unet", filters=FILTERS),
    ModelConfig(architecture="mednext", deep_supervision=True),
]


def _name(model):
    return f"{model.architecture}-{model.rsunet_norm}-{model.deep_supervision}"


def _build(model, in_channels=1, voxel_size=(1.0, 1.0, 1.0), patch=(16, 16, 16)):
    torch.manual_seed(0)
    pyramid = plan_pyramid(model, voxel_size, patch)
    return build_network(model, in_channels, pyramid), pyramid


@pytest.mark.parametrize("factor", [(1, 2, 2), (2, 2, 2), (1, 1, 1), (2, 1, 1)])
def test_upsampling_keeps_a_constant_up_to_the_faces(factor):
    up = Upsample(2, 2, factor)
    torch.nn.init.dirac_(up.mix.weight)
    out = up(torch.full((1, 2, 3, 4, 5), 0.7))
    assert out.shape[2:] == tuple(n * f for n, f in zip((3, 4, 5), factor, strict=True))
    torch.testing.assert_close(out, torch.full_like(out, 0.7))


def test_the_whole_resize_path_keeps_a_constant():
    """Every level passes a constant on, so the finest output must be constant."""
    pyramid = Pyramid(((1, 2, 2), (2, 2, 2)), ((1, 1, 1),) * 3)
    network = RSUNet(1, 3, FILTERS, pyramid).eval()
    out = network(torch.full((1, 1, 4, 8, 8), 0.3))[0]
    torch.testing.assert_close(out, out[:, :, :1, :1, :1].expand_as(out))


@pytest.mark.parametrize("model", ARCHITECTURES, ids=_name)
@pytest.mark.parametrize("in_channels", [1, 2])
def test_logits_have_the_shape_of_the_image(model, in_channels):
    network, _ = _build(model, in_channels)
    out = network.eval()(torch.rand(1, in_channels, 16, 16, 32))
    assert len(out) == 1
    assert out[0].shape == (1, 3, 16, 16, 32)


@pytest.mark.parametrize("model", ARCHITECTURES, ids=_name)
def test_the_gradient_reaches_every_parameter(model):
    network, _ = _build(model)
    outputs = network.train()(torch.rand(2, 1, 16, 16, 16))
    sum(o.square().sum() for o in outputs).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None]
    assert silent == [] or all("dummy" in name for name in silent)


@pytest.mark.parametrize(
    "model", [m for m in ARCHITECTURES if m.deep_supervision], ids=_name
)
def test_deep_supervision_returns_the_finest_output_first(model):
    network, _ = _build(model)
    widths = [o.shape[-1] for o in network.train()(torch.rand(2, 1, 32, 32, 32))]
    assert widths[0] == 32
    assert widths == sorted(widths, reverse=True)
    assert len(widths) > 1


def test_one_slice_is_a_volume_too():
    network, pyramid = _build(ModelConfig(filters=FILTERS), patch=(1, 16, 16))
    assert pyramid.multiple[0] == 1
    assert all(k[0] == 1 for k in pyramid.kernels)
    assert network.eval()(torch.rand(1, 1, 1, 16, 16))[0].shape[2:] == (1, 16, 16)


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


@pytest.mark.parametrize("model", ARCHITECTURES, ids=_name)
def test_the_required_multiple_is_enough(model):
    network, pyramid = _build(model)
    size = required_multiple(model, pyramid)
    image = torch.rand(2, 1, *(2 * n for n in size))
    assert network.eval()(image)[0].shape[2:] == image.shape[2:]


def test_a_small_network_learns_one_patch_by_heart():
    network, _ = _build(ModelConfig(filters=(8, 12)), patch=(8, 16, 16))
    target = torch.from_numpy(
        np.random.default_rng(0).random((1, 3, 8, 16, 16), np.float32) > 0.5
    ).float()
    image = target[:, :1]
    optimizer = torch.optim.Adam(network.parameters(), 0.02)
    loss = torch.nn.BCEWithLogitsLoss()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(network(image)[0][:, :1], image)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.1 * losses[0]


def test_an_axis_too_short_to_shrink_does_not_hold_the_others_back():
    pyramid = plan_pyramid(ModelConfig(filters=(4,) * 5), (40, 20, 20), (8, 160, 160))
    assert pyramid.multiple == (2, 16, 16)
    assert pyramid.kernels[1:] == ((3, 3, 3),) * 4
