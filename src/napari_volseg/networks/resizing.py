"""Upsampling that keeps a constant, up to the faces of the volume.

Transposed convolutions do not: they weigh the voxels of their output unevenly
(Odena et al. 2016, doi:10.23915/distill.00003) and lose weight at the faces.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from napari_volseg.geometry import Size

__all__ = ["Binned", "Resampled", "Upsample", "replace_transposed", "resize_by"]


class Upsample(nn.Module):
    """A convolution, then linear interpolation.

    The convolution comes first, where there are fewer voxels.

    Parameters
    ----------
    in_channels, out_channels
        Channels before and after.
    factor
        What each edge (z, y, x) is multiplied with.
    kernel
        Kernel (z, y, x) of the convolution; odd.
    groups, bias
        As in `torch.nn.Conv3d`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: Size,
        kernel: Size = (1, 1, 1),
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.mix = nn.Conv3d(
            in_channels,
            out_channels,
            kernel,
            padding=(kernel[0] // 2, kernel[1] // 2, kernel[2] // 2),
            groups=groups,
            bias=bias,
        )
        self.resize: nn.Module = nn.Identity()
        if max(factor) > 1:
            scale = tuple(float(f) for f in factor)
            self.resize = nn.Upsample(
                scale_factor=scale, mode="trilinear", align_corners=False
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, out_channels, …) with every edge times its factor."""
        resized: Tensor = self.resize(self.mix(x))
        return resized


class Binned(nn.Module):
    """A network that sees voxels averaged, and whose logits are interpolated back.

    Parameters
    ----------
    network
        From (B, C, Z, Y, X) to a tuple of logits, finest first.
    binning
        Voxels (z, y, x) that are averaged into one.
    """

    def __init__(self, network: nn.Module, binning: Size) -> None:
        super().__init__()
        self.network = network
        self.binning = binning

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return logits; the finest have the shape of the image."""
        binned = functional.avg_pool3d(image_BCZYX, self.binning)
        finest, *coarser = self.network(binned)
        size = image_BCZYX.shape[2:]
        return (functional.interpolate(finest, size, mode="trilinear"), *coarser)


class Resampled(nn.Module):
    """A network that sees its image at another size, for voxels of another size.

    Linear both ways, except that a smaller image is made of means.

    Parameters
    ----------
    network
        From (B, C, Z, Y, X) to a tuple of logits, finest first.
    size
        Edges (z, y, x) that the network sees.
    """

    def __init__(self, network: nn.Module, size: Size) -> None:
        super().__init__()
        self.network = network
        self.size = size

    def forward(self, image_BCZYX: Tensor) -> tuple[Tensor, ...]:
        """Return the finest logits, in the shape of the image."""
        shape = image_BCZYX.shape[2:]
        seen = image_BCZYX
        for axis in range(3):
            size = [*seen.shape[2:]]
            mode = "area" if self.size[axis] < size[axis] else "trilinear"
            size[axis] = self.size[axis]
            seen = functional.interpolate(seen, size, mode=mode)
        finest = self.network(seen)[0]
        return (functional.interpolate(finest, shape, mode="trilinear"),)


def resize_by(old: nn.ConvTranspose3d, factor: Size, *, linear: bool) -> nn.Module:
    """Return an upsampling in place of `old`, by another factor.

    A kernel that `old` has beyond its stride is kept by the interpolating form;
    the transposed form takes the factor as its kernel.
    """
    bias = old.bias is not None
    if not linear:
        return nn.ConvTranspose3d(
            old.in_channels, old.out_channels, factor, stride=factor, bias=bias
        )
    z, y, x = (k if k % 2 else 1 for k in old.kernel_size)
    return Upsample(old.in_channels, old.out_channels, factor, (z, y, x), bias=bias)


def replace_transposed(network: nn.Module) -> None:
    """Replace every transposed convolution of a network by interpolation."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ConvTranspose3d):
                z, y, x = child.stride
                setattr(module, name, resize_by(child, (z, y, x), linear=True))
