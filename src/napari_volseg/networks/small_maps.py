"""Convolutions that do not trust a processor's bfloat16 with maps of a few voxels.

oneDNN 3.12 gives wrong gradients, and reads memory that nobody wrote, where a map is
thinner than the kernel; on other processors where a stride leaves a single voxel
(pytorch/pytorch#169688). Such maps cost next to nothing in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["guard_small_maps"]


def guard_small_maps(network: nn.Module) -> None:
    """Let the convolutions of a network compute small maps in float32, on processors.

    Weights, their names and what other maps and devices compute stay the same.
    """
    for module in network.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = _Conv3d
        elif type(module) is nn.ConvTranspose3d:
            module.__class__ = _ConvTranspose3d


class _Conv3d(nn.Conv3d):
    def forward(self, x: Tensor) -> Tensor:
        if _is_bf16(x) and _is_small(x.shape[2:], self):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float()).to(torch.bfloat16)
        return super().forward(x)


class _ConvTranspose3d(nn.ConvTranspose3d):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        # Its gradient is a convolution of what it puts out.
        size = [n * s for n, s in zip(x.shape[2:], self.stride, strict=True)]
        if _is_bf16(x) and _is_small(size, self):
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float(), output_size).to(torch.bfloat16)
        return super().forward(x, output_size)


def _is_bf16(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _is_small(size: Sequence[int], conv: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    """Return whether any edge is shorter than the kernel, or passed in one stride."""
    return any(
        n <= dilation * (kernel - 1) or 1 < stride >= n
        for n, kernel, dilation, stride in zip(
            size, conv.kernel_size, conv.dilation, conv.stride, strict=True
        )
    )
