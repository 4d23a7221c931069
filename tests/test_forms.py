"""The forms of a forward pass."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from napari_volseg.config import build_config
from napari_volseg.devices import Compute, choose_compute
from napari_volseg.forms import Form, build_pass, to_device
from napari_volseg.networks import build_network, plan_pyramid

PATCH = (8, 16, 16)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch has no oneDNN here"
)
def test_a_single_window_on_a_processor_takes_no_slow_convolution(
    channels_last: bool,
) -> None:
    config = build_config({"model": {"filters": [4, 8]}, "data": {"patch_size": PATCH}})
    pyramid = plan_pyramid(config.model, (1.0, 1.0, 1.0), PATCH)
    compute = Compute("cpu", "32", channels_last)
    network = to_device(build_network(config.model, 1, pyramid), compute)
    forward = build_pass(network, Form(compute))
    window = torch.rand((1, 1, *PATCH))
    with (
        torch.inference_mode(),
        profile(activities=[ProfilerActivity.CPU]) as profiled,
    ):
        logits = forward(window)
    names = {event.key for event in profiled.key_averages()}
    assert "aten::mkldnn_convolution" in names
    assert not any("slow_conv3d" in name for name in names)
    with torch.inference_mode():
        expected = network(window)[0]
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "architecture", "expected"),
    [
        ("group", "rsunet", True),
        ("batch", "rsunet", True),
        ("instance", "rsunet", False),
        ("batch", "monai_unet", False),
    ],
)
def test_the_layout_of_float32_on_a_processor_follows_the_network(
    norm: str, architecture: str, expected: bool
) -> None:
    config = build_config(
        {
            "model": {"rsunet_norm": norm, "architecture": architecture},
            "system": {"device": "cpu"},
            "optimization": {"precision": "32"},
        }
    )
    assert choose_compute(config).channels_last == expected
