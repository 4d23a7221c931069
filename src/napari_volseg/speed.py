"""How fast this machine trains, measured in a moment."""

from __future__ import annotations

import time

import torch

from napari_volseg.automatic import training_cost
from napari_volseg.config import Config, build_config
from napari_volseg.devices import Compute
from napari_volseg.networks import N_MAPS, build_network, plan_pyramid

__all__ = ["measure_speed"]

_SECONDS = 1.0
_CUBIC = (1.0, 1.0, 1.0)
_HALF_GAIN = 1.8
"""A step in bfloat16 against one in float32, on processors with instructions for it."""
_ROOM = 4 * 2**30
"""Bytes that must be free on a GPU for the larger network."""


def measure_speed(compute: Compute) -> float:
    """Return the multiplications a second of training steps of an RSUNet.

    A processor is measured in float32, whose kernels cannot crash, and credited
    with what half precision gains.
    """
    config = _reference_config(compute.device)
    cost = training_cost(config, _CUBIC)
    pyramid = plan_pyramid(config.model, _CUBIC, config.data.patch_size)
    network = build_network(config.model, 1, pyramid).to(compute.device)
    network = network.to(memory_format=compute.memory_format)  # type: ignore[call-overload]
    size = config.data.patch_size
    # Two, as PyTorch takes a slow method for a single patch on a processor.
    image = torch.rand((2, 1, *size), device=compute.device)
    image = image.contiguous(memory_format=compute.memory_format)
    target = torch.rand((2, N_MAPS, *size), device=compute.device)
    in_half = compute.device == "cuda" and compute.precision != "32"

    def step() -> None:
        with torch.autocast(compute.device, torch.bfloat16, enabled=in_half):
            loss = (network(image)[0].float() - target).square().mean()
        loss.backward()
        if compute.device == "cuda":
            torch.cuda.synchronize()

    step()
    started = time.perf_counter()
    n_steps = 0
    while n_steps < 2 or time.perf_counter() - started < _SECONDS:
        step()
        n_steps += 1
    speed = 2 * n_steps * cost / (time.perf_counter() - started)
    gain = _HALF_GAIN if compute.device == "cpu" and compute.precision != "32" else 1.0
    return speed * gain


def _reference_config(device: str) -> Config:
    """Return the network whose steps are timed; they take about 1.5 GB on a GPU.

    A GPU would spend most of the time of a small one waiting to be told what is next.
    """
    is_large = device == "cuda" and torch.cuda.mem_get_info()[0] > _ROOM
    filters = [32, 64, 128, 256] if is_large else [16, 32, 64]
    patch_size = [32, 96, 96] if is_large else [16, 32, 32]
    return build_config(
        {
            "model": {"filters": filters, "rsunet_norm": "group"},
            "data": {"patch_size": patch_size},
        }
    )
