"""Compare layouts of tensors on a processor, and one window with and without oneDNN.

Usage: python benchmarks/layouts.py [--rounds N] [--patch Z Y X] [--threads N]

Every round times, in turn and for each width of RSUNet, a training step of two patches
and a forward pass of one window. Medians over rounds are divided by those of contiguous
tensors as PyTorch computes them on its own. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn

from napari_volseg.allocator import keep_freed_memory
from napari_volseg.config import ModelConfig
from napari_volseg.devices import Compute
from napari_volseg.forms import Form, build_pass
from napari_volseg.networks import build_network, plan_pyramid

VOXEL_SIZE = (40.0, 20.0, 20.0)
WIDTHS = ((12, 24, 48, 96), (16, 32, 64, 128), (24, 48, 96, 192))


def main() -> None:
    keep_freed_memory()  # as every process of volseg does
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--patch", type=int, nargs=3, default=(16, 64, 64))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for filters in WIDTHS:
        for norm in ("group", "batch", "instance"):
            seconds = _measure(filters, norm, tuple(args.patch), args.rounds)
            rows.append({"filters": filters, "norm": norm, **seconds})
    print(json.dumps({"threads": args.threads, "patch": args.patch, "rows": rows}))


def _measure(
    filters: tuple[int, ...], norm: str, patch: tuple[int, int, int], rounds: int
) -> dict[str, float]:
    model = ModelConfig(filters=filters, rsunet_norm=norm)  # type: ignore[arg-type]
    network = build_network(model, 1, plan_pyramid(model, VOXEL_SIZE, patch))
    patches = torch.rand((2, 1, *patch))
    works: dict[str, Callable[[], object]] = {}
    for channels_last in (False, True):
        compute = Compute("cpu", "32", channels_last)
        name = "channels last" if channels_last else "contiguous"
        works[f"step, {name}"] = _step(network, compute, patches)
        works[f"window, {name}"] = _window(network, compute, patches[:1])
    works["window, PyTorch alone"] = _alone(network, patches[:1])
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - started)
    seconds = {name: median(values[1:]) for name, values in times.items()}
    return {
        "step_seconds": round(seconds["step, contiguous"], 4),
        "step_channels_last": round(
            seconds["step, channels last"] / seconds["step, contiguous"], 3
        ),
        "window_seconds": round(seconds["window, PyTorch alone"], 4),
        "window_onednn": round(
            seconds["window, contiguous"] / seconds["window, PyTorch alone"], 3
        ),
        "window_onednn_channels_last": round(
            seconds["window, channels last"] / seconds["window, PyTorch alone"], 3
        ),
    }


def _step(network: nn.Module, compute: Compute, patches: Tensor) -> Callable[[], None]:
    x = patches.contiguous(memory_format=compute.memory_format)

    def step() -> None:
        network.to(memory_format=compute.memory_format)  # type: ignore[call-overload]
        network.train()
        network.zero_grad()
        network(x)[0].square().mean().backward()

    return step


def _window(network: nn.Module, compute: Compute, x: Tensor) -> Callable[[], None]:
    forward = build_pass(network, Form(compute))

    def window() -> None:
        network.to(memory_format=compute.memory_format)  # type: ignore[call-overload]
        network.eval()
        with torch.inference_mode():
            forward(x)

    return window


def _alone(network: nn.Module, x: Tensor) -> Callable[[], None]:
    def window() -> None:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        network.eval()
        with torch.inference_mode():
            network(x)

    return window


if __name__ == "__main__":
    main()
