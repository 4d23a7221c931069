"""bfloat16 on a processor gives the gradients of float32, however small a map is."""

import copy

import pytest
import torch
from torch import nn

from napari_volseg.networks.small_maps import guard_small_maps

CONVOLUTIONS = {
    "3": lambda: nn.Conv3d(8, 8, 3, padding=1),
    "3 of one channel": lambda: nn.Conv3d(1, 8, 3, padding=1),
    "5": lambda: nn.Conv3d(8, 8, 5, padding=2),
    "flat": lambda: nn.Conv3d(8, 8, (1, 5, 5), padding=(0, 2, 2)),
    "by channel": lambda: nn.Conv3d(8, 8, 5, padding=2, groups=8),
    "dilated": lambda: nn.Conv3d(8, 8, 3, padding=2, dilation=2),
    "strided": lambda: nn.Conv3d(8, 8, 3, stride=2, padding=1),
    "pointwise, strided": lambda: nn.Conv3d(8, 8, 1, stride=2),
    "transposed": lambda: nn.ConvTranspose3d(
        8, 8, 3, stride=(1, 2, 2), padding=1, output_padding=(0, 1, 1)
    ),
}
SIZES = [(1, 9, 9), (2, 9, 9), (3, 9, 9), (4, 1, 9), (4, 9, 1), (6, 9, 9)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_small_maps_have_the_gradients_of_float32(name, size):
    torch.manual_seed(0)
    exact = CONVOLUTIONS[name]()
    guarded = copy.deepcopy(exact)
    guard_small_maps(guarded)
    guarded = guarded.to(memory_format=torch.channels_last_3d)
    image = torch.randn(2, exact.in_channels, *size)
    out = exact(image)
    error = torch.randn_like(out)
    expected = torch.autograd.grad(out, [exact.weight], error)[0]
    with torch.autocast("cpu", torch.bfloat16):
        short = guarded(image.contiguous(memory_format=torch.channels_last_3d))
    found = torch.autograd.grad(short, [guarded.weight], error.to(short.dtype))[0]
    assert short.dtype == torch.bfloat16
    torch.testing.assert_close(short.float(), out, rtol=0.02, atol=0.02)
    torch.testing.assert_close(
        found, expected, rtol=0, atol=0.02 * float(expected.abs().max())
    )


def test_a_guarded_network_keeps_its_names_and_values():
    network = nn.Sequential(CONVOLUTIONS["3"](), CONVOLUTIONS["transposed"]())
    guarded = copy.deepcopy(network)
    guard_small_maps(guarded)
    assert list(guarded.state_dict()) == list(network.state_dict())
    image = torch.randn(1, 8, 6, 9, 9)
    with torch.no_grad():
        assert torch.equal(guarded(image), network(image))
