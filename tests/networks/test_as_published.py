"""With transposed convolutions and cubic voxels, networks are those of MONAI."""

import pytest
import torch
from monai.networks.nets.attentionunet import AttentionUnet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.mednext import create_mednext
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.swin_unetr import SwinUNETR
from monai.networks.nets.unet import UNet
from torch import nn

from napari_volseg.config import ModelConfig
from napari_volseg.networks import Pyramid, build_network

CHANNELS = {"in_channels": 2, "out_channels": 3}


def _cubic(n_levels):
    return Pyramid(((2, 2, 2),) * (n_levels - 1), ((3, 3, 3),) * n_levels)


ORIGINALS = {
    "monai_unet": (
        (4, 8, 16),
        lambda: UNet(
            3,
            channels=(4, 8, 16),
            strides=(2, 2),
            num_res_units=2,
            norm="batch",
            **CHANNELS,
        ),
    ),
    "monai_attention_unet": (
        (4, 8, 16),
        lambda: AttentionUnet(3, channels=(4, 8, 16), strides=(2, 2), **CHANNELS),
    ),
    "monai_segresnet": (
        (8, 16, 32),
        lambda: SegResNet(
            3,
            init_filters=8,
            blocks_down=(1, 2, 4),
            blocks_up=(1, 1),
            upsample_mode="deconv",
            **CHANNELS,
        ),
    ),
    "monai_dynunet": (
        (4, 8, 16),
        lambda: DynUNet(
            3,
            kernel_size=[3, 3, 3],
            strides=[1, 2, 2],
            upsample_kernel_size=[2, 2],
            filters=[4, 8, 16],
            **CHANNELS,
        ),
    ),
    "monai_basic_unetplusplus": (
        (4, 4, 8, 8, 8),
        lambda: BasicUNetPlusPlus(3, features=(4, 4, 8, 8, 8, 4), **CHANNELS),
    ),
    "monai_swin_unetr": (
        (12,),
        lambda: SwinUNETR(
            feature_size=12, window_size=8, downsample="mergingv2", **CHANNELS
        ),
    ),
    "mednext": ((32,), lambda: create_mednext("S", **CHANNELS)),
}

RENAMED = {
    "monai_dynunet": {"body.": "skip_layers.", "head.": "output_block."},
    "mednext": {f"network.up_blocks.{i}.block.": f"up_blocks.{i}." for i in range(4)},
}
"""Prefixes of our weights, and of MONAI's where they are not the same."""


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_network_computes_what_the_original_does(name):
    filters, make_original = ORIGINALS[name]
    model = ModelConfig(architecture=name, filters=filters, monai_upsample="transposed")
    torch.manual_seed(0)
    original = make_original().eval()
    ours = build_network(model, 2, _cubic(model.depth)).eval()
    weights = original.state_dict()
    ours.load_state_dict(
        {key: weights[_original_key(name, key)] for key in ours.state_dict()}
    )
    image = torch.rand(1, 2, 32, 32, 64)
    with torch.no_grad():
        expected = original(image)
        expected = expected[-1] if isinstance(expected, list) else expected
        torch.testing.assert_close(ours(image)[0], expected)


def _original_key(name, key):
    for ours, theirs in RENAMED.get(name, {}).items():
        if key.startswith(ours):
            return theirs + key.removeprefix(ours)
    return key.removeprefix("network.")


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        ({"architecture": "monai_unet", "filters": (32, 64, 128, 256)}, 4.74),
        ({"architecture": "mednext", "mednext_size": "S"}, 5.6),
        ({"architecture": "mednext", "mednext_size": "B"}, 10.5),
        ({"architecture": "mednext", "mednext_size": "M"}, 17.6),
        ({"architecture": "mednext", "mednext_size": "L"}, 61.8),
    ],
    ids=str,
)
@pytest.mark.parametrize("upsample", ["linear", "transposed"])
def test_networks_have_their_published_size(settings, millions, upsample):
    model = ModelConfig(monai_upsample=upsample, **settings)
    with torch.device("meta"):
        network = build_network(model, 1, _cubic(model.depth))
    assert _size(network) == pytest.approx(millions * 1e6, rel=0.01)


def _size(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
