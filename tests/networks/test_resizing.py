import pytest
import torch
from torch import nn

from napari_volseg.networks.resizing import (
    Binned,
    Upsample,
    replace_transposed,
    resize_by,
)

FACTORS = [(1, 2, 2), (2, 2, 2), (1, 1, 1), (2, 1, 1), (1, 3, 4)]


@pytest.mark.parametrize("factor", FACTORS)
def test_upsampling_keeps_a_constant_up_to_the_faces(factor):
    up = Upsample(2, 2, factor)
    nn.init.dirac_(up.mix.weight)
    out = up(torch.full((1, 2, 3, 4, 5), 0.7))
    assert out.shape[2:] == tuple(n * f for n, f in zip((3, 4, 5), factor, strict=True))
    torch.testing.assert_close(out, torch.full_like(out, 0.7))


def test_upsampling_keeps_a_ramp_away_from_the_faces():
    """Linear interpolation is centred: no half voxel is lost on either side."""
    up = Upsample(1, 1, (1, 2, 2))
    nn.init.dirac_(up.mix.weight)
    out = up(torch.arange(8.0).expand(1, 1, 1, 8, 8))
    expected = torch.arange(16) / 2 - 0.25
    torch.testing.assert_close(out[0, 0, 0, 5, 1:-1], expected[1:-1])


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("factor", FACTORS)
def test_a_replacement_enlarges_by_its_factor(factor, linear):
    old = nn.ConvTranspose3d(3, 5, 2, stride=2)
    new = resize_by(old, factor, linear=linear)
    shape = tuple(n * f for n, f in zip((3, 4, 5), factor, strict=True))
    assert new(torch.rand(1, 3, 3, 4, 5)).shape == (1, 5, *shape)


def test_no_transposed_convolution_is_left():
    network = nn.Sequential(
        nn.ConvTranspose3d(2, 4, 2, stride=2),
        nn.Sequential(
            nn.ConvTranspose3d(4, 3, 3, (1, 2, 2), padding=1, output_padding=(0, 1, 1))
        ),
    )
    image = torch.rand(1, 2, 2, 3, 4)
    shape = network(image).shape
    replace_transposed(network)
    assert not any(isinstance(m, nn.ConvTranspose3d) for m in network.modules())
    assert network(image).shape == shape


def test_a_network_that_bins_sees_means_and_is_interpolated_back():
    seen = []

    def network(binned):
        seen.append(binned)
        return binned, binned[..., :2, :2]

    image = torch.arange(64.0).reshape(1, 1, 2, 4, 8)
    finest, coarser = Binned(network, (2, 2, 2))(image)
    means = image.reshape(2, 2, 2, 4, 2).mean((0, 2, 4))
    torch.testing.assert_close(seen[0][0, 0, 0], means)
    assert finest.shape == image.shape
    assert coarser.shape == (1, 1, 1, 2, 2)

    along = finest[0, 0, 0, 0]
    torch.testing.assert_close(along[1:-1], torch.arange(1.0, 7.0) + along[1] - 1)
